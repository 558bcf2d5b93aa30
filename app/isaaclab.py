"""Recording an Isaac Lab environment without its own recorder: `attach(env, config)`, or the wrapper `RecordVideo`.

Which backend and which camera is decided by the rules of Isaac Lab's page on recording videos. Isaac Lab is not
imported here: the environment brings it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, SupportsFloat

import gymnasium
import structlog

from .backends.camera import Camera, CameraSource, Vector, current_camera
from .backends.isaaclab.scene import (
    active_visualizers,
    base_env,
    camera_source,
    describe,
    find_newton,
    steps_per_second,
)
from .backends.isaaclab.selection import (
    BackendKind,
    BackendSource,
    Choice,
    OriginType,
    Physics,
    SceneDescription,
    nearest_worlds,
    place_camera,
    select_backend,
)
from .blocking import Recorder
from .config import RecorderConfig
from .errors import ConfigurationError, SourceUnavailableError
from .interfaces import Backend, ClipHook, SegmentHook

__all__ = ["Attachment", "RecordVideo", "attach", "describe"]

Source = str | BackendSource

_DEFAULT_WORLD_COUNT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _PictureOptions:
    """The caller's arguments about the pictures."""

    source: Source | Mapping[str, Source]
    camera: CameraSource | None
    visible_worlds: Sequence[int] | None
    renderer: str
    env_indices: Sequence[int] | None
    tiles: tuple[int, int] | None
    depth_range: tuple[float, float]


class Attachment:
    """A recorder that counts the steps and resets of an environment by itself, until either is closed.

    Attributes:
        recorder: The recorder, open; for clips by hand, statistics and the summary.
        choices: What is recorded and why, by the name of the stream.
    """

    def __init__(self, base: Any, recorder: Recorder, choices: Mapping[str, Choice]) -> None:
        self.recorder = recorder
        self.choices = choices
        self._hooks = [
            _Hook(base, "step", after=recorder.step),
            _Hook(base, "reset", after=recorder.reset),
            _Hook(base, "close", before=self.close),
        ]

    def __enter__(self) -> Recorder:
        return self.recorder

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unhook()
        self.recorder.__exit__(exc_type, exc, traceback)

    def close(self) -> None:
        """Finish all clips and leave the environment as it was. A second call does nothing.

        Raises:
            RecordingError: `strict` is set, and frames were lost since the last call.
        """
        self._unhook()
        self.recorder.close()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()


def attach(
    env: Any,
    config: RecorderConfig,
    *,
    source: Source | Mapping[str, Source] = "visualizer",
    camera: CameraSource | None = None,
    visible_worlds: Sequence[int] | None = None,
    renderer: str = "auto",
    env_indices: Sequence[int] | None = None,
    tiles: tuple[int, int] | None = None,
    depth_range: tuple[float, float] = (0.1, 10.0),
    on_clip_closed: ClipHook | None = None,
    on_segment_closed: SegmentHook | None = None,
) -> Attachment:
    """Record an Isaac Lab environment from its next step or reset on.

    ```python
    with stepreel.isaaclab.attach(env, config) as recorder:
        train(env)
    print(recorder.summary())
    ```

    Steps and resets are counted where the environment does them, below all wrappers. Closing the environment closes the
    recorder first, so that the `with` may be left away.

    Args:
        env: A running environment; neither reset nor closed by this.
        config: All settings. Where it has no size, pictures have the task's.
        source: Where the pictures come from: "visualizer", "renderer", "visualizer:<type>",
            "visualizer:<type>:streaming_view", "sensor:<name>[:<channel>]"; or several of them, by the names of their
            streams.
        camera: The camera, or a function that is asked for it at each capture; None: by the rules.
        visible_worlds: The environments in Newton's picture; None: those the visualizer shows, else the 16 nearest to
            what the camera looks at.
        renderer: What draws Newton's picture: "gl", "warp" or "auto".
        env_indices: The environments in a sensor's picture; None: the first.
        tiles: Rows and columns of the picture, each tile with an environment of its own; of Newton's picture those of
            `visible_worlds`, else the first, seen from the same place beside each.
        depth_range: Distances at the ends of the colours of a sensor's depth [m].
        on_clip_closed: As of `Recorder`.
        on_segment_closed: As of `Recorder`.

    Raises:
        BackendError: this is no Isaac Lab environment, or what was chosen can't be recorded.
        SourceUnavailableError: there is no such source; with what was found and what to pass instead.
        ConfigurationError: a setting that can't work.
        StepreelError: as `Recorder` and its opening raise.
    """
    options = _PictureOptions(
        source=source,
        camera=camera,
        visible_worlds=visible_worlds,
        renderer=renderer,
        env_indices=env_indices,
        tiles=tiles,
        depth_range=depth_range,
    )
    recorder, choices = _open(env, config, options, on_clip_closed, on_segment_closed)
    return Attachment(base_env(env), recorder, choices)


class RecordVideo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """`attach` as a wrapper: counts the steps and resets that go through it, and closes the recorder with itself.

    The arguments and what is raised are those of `attach`.

    Attributes:
        recorder: The recorder, open until the environment is closed.
        choices: What is recorded and why, by the name of the stream.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        config: RecorderConfig,
        *,
        source: Source | Mapping[str, Source] = "visualizer",
        camera: CameraSource | None = None,
        visible_worlds: Sequence[int] | None = None,
        renderer: str = "auto",
        env_indices: Sequence[int] | None = None,
        tiles: tuple[int, int] | None = None,
        depth_range: tuple[float, float] = (0.1, 10.0),
        on_clip_closed: ClipHook | None = None,
        on_segment_closed: SegmentHook | None = None,
    ) -> None:
        super().__init__(env)
        options = _PictureOptions(
            source=source,
            camera=camera,
            visible_worlds=visible_worlds,
            renderer=renderer,
            env_indices=env_indices,
            tiles=tiles,
            depth_range=depth_range,
        )
        self.recorder, self.choices = _open(env, config, options, on_clip_closed, on_segment_closed)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, and the recorder after it."""
        result = self.env.step(action)
        self.recorder.step()
        return result

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, and tell the recorder."""
        result = self.env.reset(seed=seed, options=options)
        self.recorder.reset()
        return result

    def close(self) -> None:
        """Finish all clips, then close the environment: closing it stops what the last pictures are taken of."""
        try:
            self.recorder.close()
        finally:
            super().close()


class _Hook:
    """A method of one object, with a call before or after it, until it is removed."""

    def __init__(
        self,
        target: Any,
        name: str,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self._target = target
        self._name = name
        self._is_removed = False
        self._own = vars(target).get(name)  # Of an object that somebody hooked before.
        method = getattr(target, name)

        # The method's own parameters differ between environments.
        @functools.wraps(method)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            if before and not self._is_removed:
                before()
            result = method(*args, **kwargs)
            if after and not self._is_removed:
                after()
            return result

        self._hooked = hooked
        setattr(target, name, hooked)

    def remove(self) -> None:
        """Put the method back; where somebody has hooked it since, have ours do nothing."""
        self._is_removed = True
        if vars(self._target).get(self._name) is not self._hooked:
            return
        if self._own is None:
            delattr(self._target, self._name)
        else:
            setattr(self._target, self._name, self._own)


def _open(
    env: Any,
    config: RecorderConfig,
    options: _PictureOptions,
    on_clip_closed: ClipHook | None,
    on_segment_closed: SegmentHook | None,
) -> tuple[Recorder, dict[str, Choice]]:
    """Return an open recorder of `env`, and what it records."""
    base = base_env(env)
    scene = describe(base)
    sources = dict(options.source) if isinstance(options.source, Mapping) else {"default": options.source}
    choices = {stream: _choose(scene, source) for stream, source in sources.items()}
    _check_options(options, choices.values())
    backends = {stream: _make_backend(base, scene, choice, options) for stream, choice in choices.items()}
    recorder = Recorder(
        _with_size(config, choices.values()),
        backends if isinstance(options.source, Mapping) else backends["default"],
        on_clip_closed=on_clip_closed,
        on_segment_closed=on_segment_closed,
    )
    recorder.__enter__()
    for stream, choice in choices.items():
        _log_choice(stream, choice, backends[stream], options)
    return recorder, choices


def _check_options(options: _PictureOptions, choices: Collection[Choice]) -> None:
    """Refuse an option that none of the chosen backends has; it would be ignored silently."""
    if options.camera is not None and not (isinstance(options.camera, Camera) or callable(options.camera)):
        raise ConfigurationError(f"camera: got {options.camera!r}; allowed: a Camera, or a function that returns one")
    newton, sensor, kit = BackendKind.NEWTON, BackendKind.SENSOR, BackendKind.KIT
    chosen = {choice.backend for choice in choices}
    for name, allowed in (
        ("camera", {newton, kit}),
        ("visible_worlds", {newton}),
        ("env_indices", {sensor}),
        ("tiles", {newton, sensor}),
    ):
        value = getattr(options, name)
        if value is not None and not chosen & allowed:
            raise ConfigurationError(
                f"{name}: got {value!r}; allowed: only for {' and '.join(sorted(allowed))}, and what was chosen is "
                + "; ".join(f"{choice.backend}, since {choice.reason}" for choice in choices)
            )


def _choose(scene: SceneDescription, source: Source) -> Choice:
    choice = select_backend(scene, source if isinstance(source, BackendSource) else BackendSource.parse(source))
    if choice.backend is not BackendKind.NEWTON or scene.physics is Physics.NEWTON:
        return choice
    if choice.visualizer is None:
        raise SourceUnavailableError(
            f"{choice.source}: {choice.reason}, but Newton does not simulate here; start the run with --viz newton_gl, "
            'or add a camera to the scene and pass "sensor:<name>"'
        )
    # Where the bodies are in Newton's model is then known to its visualizer only.
    reason = f"{choice.reason}, and draws itself, since Newton does not simulate here"
    return replace(choice, backend=BackendKind.VISUALIZER, reason=reason, camera=None, width=None, height=None)


def _make_backend(base: Any, scene: SceneDescription, choice: Choice, options: _PictureOptions) -> Backend:
    match choice.backend:
        case BackendKind.SENSOR:
            from .backends.isaaclab.sensor import SensorBackend

            return SensorBackend(
                base.scene.sensors,
                str(choice.source.sensor),
                channel=choice.source.channel,
                env_indices=options.env_indices,
                tiles=options.tiles,
                depth_range=options.depth_range,
                steps_per_second=steps_per_second(base),
            )
        case BackendKind.VISUALIZER:
            return _make_visualizer_backend(base, choice)
        case BackendKind.KIT:
            return _make_kit_backend(base, choice, options)
        case BackendKind.NEWTON:
            return _make_newton_backend(base, scene, choice, options)


def _make_visualizer_backend(base: Any, choice: Choice) -> Backend:
    from .backends.isaaclab.visualizer import VisualizerBackend

    return VisualizerBackend(
        _visualizer(base, choice),
        sim=base.sim,
        is_streaming_view=choice.source.streaming_view,
        steps_per_second=steps_per_second(base),
    )


def _make_kit_backend(base: Any, choice: Choice, options: _PictureOptions) -> Backend:
    from .backends.kit import DEFAULT_CAMERA_PRIM_PATH, KitBackend

    viewer = getattr(base.cfg, "viewer", None)
    return KitBackend(
        camera=_camera(base, choice, options),
        camera_prim_path=getattr(viewer, "cam_prim_path", None) or DEFAULT_CAMERA_PRIM_PATH,
        sim=base.sim,
        steps_per_second=steps_per_second(base),
    )


def _make_newton_backend(base: Any, scene: SceneDescription, choice: Choice, options: _PictureOptions) -> Backend:
    from .backends.newton import NewtonBackend

    simulation = find_newton(base)
    camera = _camera(base, choice, options)
    if options.tiles is not None:
        return NewtonBackend(
            simulation.get_model,
            simulation.get_state,
            camera=_seen_from(camera, _origin_of_view(scene, choice, options)),
            visible_worlds=options.visible_worlds,
            tiles=options.tiles,
            world_origins=scene.env_origins,
            renderer=options.renderer,
            steps_per_second=steps_per_second(base),
        )
    return NewtonBackend(
        simulation.get_model,
        simulation.get_state,
        camera=camera,
        visible_worlds=_visible_worlds(scene, choice, options, camera),
        world_spacing=(0.0, 0.0, 0.0),  # Environments stand apart already.
        renderer=options.renderer,
        steps_per_second=steps_per_second(base),
    )


def _camera(base: Any, choice: Choice, options: _PictureOptions) -> CameraSource:
    if options.camera is not None:
        return options.camera
    assert choice.camera is not None
    return camera_source(base, choice.camera, None if choice.visualizer is None else _visualizer(base, choice))


def _visualizer(base: Any, choice: Choice) -> Any:
    assert choice.visualizer is not None
    return active_visualizers(base.sim)[choice.visualizer]


def _visible_worlds(
    scene: SceneDescription, choice: Choice, options: _PictureOptions, camera: CameraSource
) -> Sequence[int] | None:
    if options.visible_worlds is not None:
        return options.visible_worlds
    shown = None if choice.visualizer is None else scene.visualizers[choice.visualizer].visible_worlds
    if shown is not None:
        return shown
    return nearest_worlds(scene.env_origins, current_camera(camera).lookat, _DEFAULT_WORLD_COUNT) or None


def _origin_of_view(scene: SceneDescription, choice: Choice, options: _PictureOptions) -> Vector:
    """Return what a camera is relative to where every tile shows another environment from it [m]."""
    if options.camera is not None or choice.camera is None:
        return 0.0, 0.0, 0.0
    viewpoint = choice.camera.viewpoint
    if viewpoint.origin_type is not OriginType.WORLD:
        return scene.env_origins[viewpoint.env_index]
    # It looks at one environment, or at the middle of them all.
    origins = ((0.0, 0.0, 0.0), *scene.env_origins)
    (nearest,) = nearest_worlds(origins, viewpoint.lookat, 1)
    return origins[nearest]


def _seen_from(camera: CameraSource, origin: Vector) -> CameraSource:
    """Return `camera` relative to `origin` [m]."""
    x, y, z = origin
    if isinstance(camera, Camera):
        return place_camera(camera, (-x, -y, -z))
    return lambda: place_camera(camera(), (-x, -y, -z))


def _with_size(config: RecorderConfig, choices: Collection[Choice]) -> RecorderConfig:
    """Return `config` with the size that the task asks for, where neither it nor a source has one of its own."""
    sizes = {(choice.width, choice.height) for choice in choices}
    if config.width is not None or config.height is not None or len(sizes) != 1:
        return config
    ((width, height),) = sizes
    return replace(config, width=width, height=height)


def _log_choice(stream: str, choice: Choice, backend: Backend, options: _PictureOptions) -> None:
    camera = "its own" if choice.camera is None else choice.camera.reason
    structlog.get_logger("stepreel").info(
        "source.chosen",
        stream=stream,
        source=str(choice.source),
        backend=backend.name,
        reason=choice.reason,
        camera=camera if options.camera is None or choice.camera is None else "the caller's",
    )
