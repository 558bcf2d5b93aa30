"""Chooses the source of pictures that a scene is recorded from, and the camera.

Pure: a description of the scene goes in, a choice with its reason comes out. `scene` makes the description of
a running Isaac Lab environment; any other scene can be described by hand.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from ...errors import ConfigurationError, SourceUnavailableError
from ..camera import Camera, Vector

KIT, NEWTON_GL, NEWTON_RTX, RERUN, VISER = "kit", "newton_gl", "newton_rtx", "rerun", "viser"
"""Visualizers, as Isaac Lab calls their types."""
ISAAC_RTX, NEWTON_WARP, OVRTX = "isaac_rtx", "newton_warp", "ovrtx"
"""Renderers of sensors, likewise."""

_VISUALIZER_ALIASES = {"newton": NEWTON_GL}
_VISUALIZERS = (KIT, NEWTON_GL, NEWTON_RTX, RERUN, VISER)
_SIGNAL_NAMES = {
    ISAAC_RTX: "the Isaac RTX renderer",
    NEWTON_WARP: "the Newton Warp renderer",
    OVRTX: "the OVRTX renderer",
}
_FORMS = (
    '"visualizer", "renderer", "visualizer:<type>", "visualizer:<type>:streaming_view", "sensor:<name>" or '
    '"sensor:<name>:<channel>"'
)


class SourceKind(StrEnum):
    """The kind of thing that makes the pictures."""

    VISUALIZER = "visualizer"
    """The active visualizer; where none can be recorded, as `RENDERER`."""
    RENDERER = "renderer"
    """Whatever the physics and the renderers call for; visualizers are not looked at."""
    SENSOR = "sensor"
    """A camera that the task itself renders."""


class Channel(StrEnum):
    """The part of a camera's output that is shown."""

    RGB = "rgb"
    DEPTH = "depth"
    SEGMENTATION = "segmentation"
    NORMALS = "normals"


class Physics(StrEnum):
    """The physics engine of a scene."""

    PHYSX = "physx"
    NEWTON = "newton"


class OriginType(StrEnum):
    """The frame that a camera's eye and look-at are relative to."""

    WORLD = "world"
    ENV = "env"
    ASSET_ROOT = "asset_root"
    ASSET_BODY = "asset_body"


class BackendKind(StrEnum):
    """The backend that makes the pictures."""

    KIT = "kit"
    NEWTON = "newton_gl"
    VISUALIZER = "visualizer"
    """The visualizer itself draws, and its picture is copied."""
    SENSOR = "sensor"


class CameraKind(StrEnum):
    """The way a camera moves."""

    FIXED = "fixed"
    VISUALIZER = "visualizer"
    """As the visualizer's own camera, asked at each capture."""
    ASSET = "asset"
    """With an asset or a body of it."""


_OUTPUTS = {
    Channel.RGB: ("rgb", "rgba"),
    Channel.DEPTH: ("depth", "distance_to_image_plane", "distance_to_camera"),
    Channel.SEGMENTATION: (
        "semantic_segmentation",
        "instance_segmentation_fast",
        "instance_id_segmentation_fast",
        "instance_segmentation",
        "instance_id_segmentation",
    ),
    Channel.NORMALS: ("normals",),
}
"""Outputs of a camera that show a channel; the first that is there is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSource:
    """The source of pictures that a user asked for."""

    kind: SourceKind = SourceKind.VISUALIZER
    visualizer: str | None = None
    """Type of the one visualizer that will do; None: any."""
    streaming_view: bool = False
    """The visualizer's panel of camera pictures, in place of its view of the scene."""
    sensor: str | None = None
    """Name in the scene."""
    channel: Channel = Channel.RGB
    """Of the sensor."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an older `backend_source`, or a `source` of Isaac Lab 3.0.

        Raises:
            ConfigurationError: it is neither.
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"source: got {text!r}; allowed: {_FORMS}")
        kind, *rest = (part.strip() for part in text.split(":"))
        match kind.lower(), rest:
            case "visualizer", []:
                return cls()
            case "renderer", []:
                return cls(kind=SourceKind.RENDERER)
            case "visualizer", [name]:
                return cls(visualizer=_visualizer_type(text, name))
            case "visualizer", [name, view] if view.lower() == "streaming_view":
                return cls(visualizer=_visualizer_type(text, name), streaming_view=True)
            case "sensor", [name] if name:
                return cls(kind=SourceKind.SENSOR, sensor=name)
            case "sensor", [name, channel] if name:
                return cls(kind=SourceKind.SENSOR, sensor=name, channel=checked_channel(channel.lower()))
            case _:
                raise ConfigurationError(f"source: got {text!r}; allowed: {_FORMS}")

    def __str__(self) -> str:
        parts: list[str] = [self.kind]
        if self.visualizer:
            parts += [self.visualizer, *(["streaming_view"] if self.streaming_view else [])]
        if self.sensor:
            parts += [self.sensor, self.channel]
        return ":".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewpoint:
    """A camera as it is configured; not checked before it is chosen."""

    eye: Vector = (7.5, 7.5, 7.5)
    """Position, relative to the origin [m]."""
    lookat: Vector = (0.0, 0.0, 0.0)
    """The point in the middle of the picture, relative to the origin [m]."""
    fov: float = 45.0
    """Vertical field of view [degrees]."""
    origin_type: OriginType = OriginType.WORLD
    env_index: int = 0
    """The environment whose origin or asset it is."""
    asset_name: str | None = None
    body_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualizerDescription:
    """One active visualizer."""

    type: str
    viewpoint: Viewpoint = field(default_factory=Viewpoint)
    streaming_view: bool = False
    """Whether it has a panel of camera pictures that can be read."""
    visible_worlds: tuple[int, ...] | None = None
    """The environments that it shows; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorDescription:
    """One camera that the task renders."""

    name: str
    outputs: tuple[str, ...]
    """Names of its outputs, such as "rgb" and "distance_to_image_plane"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneDescription:
    """The facts that the rules use; every part may be missing."""

    visualizers: tuple[VisualizerDescription, ...] = ()
    """The active ones."""
    physics: Physics | None = None
    renderers: frozenset[str] = frozenset()
    """Types of the renderers of sensors."""
    sensors: tuple[SensorDescription, ...] = ()
    """Cameras only."""
    viewer: Viewpoint | None = None
    """The task's own view, Isaac Lab's `ViewerCfg`."""
    resolution: tuple[int, int] = (1280, 720)
    """Width and height that the task asks for [pixels]."""
    env_origins: tuple[Vector, ...] = ()
    """Positions of the environments [m]."""
    assets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the assets that can be followed, each with the names of its bodies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraChoice:
    """The camera that pictures are taken from."""

    kind: CameraKind
    camera: Camera
    """`FIXED`: as it stands in the world; `VISUALIZER`: where it is at the start; `ASSET`: relative to the asset."""
    viewpoint: Viewpoint
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The backend and camera that record a scene, and why."""

    source: BackendSource
    backend: BackendKind
    reason: str
    visualizer: int | None = None
    """Place in the scene's visualizers of the one that selected the backend."""
    camera: CameraChoice | None = None
    """None where the source has a camera of its own."""
    width: int | None = None
    """Pixels; None where the source has a size of its own."""
    height: int | None = None


def select_backend(scene: SceneDescription, source: BackendSource) -> Choice:
    """Return the backend and camera that record `scene`.

    Raises:
        SourceUnavailableError: the scene has no such source; with what was found and what to pass instead.
        ConfigurationError: the chosen camera can't work, or names an environment, asset or body that is not there.
    """
    if source.kind is SourceKind.SENSOR:
        return _choose_sensor(scene, source)
    if source.kind is SourceKind.RENDERER:
        return _choose_by_stack(scene, source, "")
    if source.visualizer:
        return _choose_named(scene, source)
    return _choose_visualizer(scene, source)


def place_camera(camera: Camera, origin: Vector) -> Camera:
    """Return a camera that was given relative to `origin` [m]."""
    return Camera(eye=_sum(camera.eye, origin), lookat=_sum(camera.lookat, origin), fov=camera.fov)


def nearest_worlds(env_origins: Sequence[Vector], point: Vector, count: int) -> tuple[int, ...]:
    """Return the `count` environments that stand nearest to `point` [m], ascending.

    The first ones of many stand in a corner of their grid, where no camera looks.
    """
    by_distance = sorted(range(len(env_origins)), key=lambda index: math.dist(env_origins[index], point))
    return tuple(sorted(by_distance[:count]))


def checked_channel(name: str) -> Channel:
    """Return the channel of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in tuple(Channel):
        raise ConfigurationError(f"channel: got {name!r}; allowed: one of {', '.join(Channel)}")
    return Channel(name)


def find_output(sensor: str, channel: Channel, outputs: Collection[str]) -> str:
    """Return the output of a camera that shows `channel`.

    Raises:
        SourceUnavailableError: there is none among `outputs`.
    """
    for name in _OUTPUTS[channel]:
        if name in outputs:
            return name
    raise SourceUnavailableError(
        f"sensor {sensor!r}: looked for {' or '.join(_OUTPUTS[channel])}, found {_listed(outputs)}; add one of "
        "those to the data_types of its configuration"
    )


def _visualizer_type(text: str, name: str) -> str:
    found = _VISUALIZER_ALIASES.get(name.lower(), name.lower())
    if found not in _VISUALIZERS:
        raise ConfigurationError(f"source: got {text!r}; allowed visualizers: newton, {', '.join(_VISUALIZERS)}")
    return found


def _choose_sensor(scene: SceneDescription, source: BackendSource) -> Choice:
    names = [sensor.name for sensor in scene.sensors]
    if source.sensor is None or source.sensor not in names:
        raise SourceUnavailableError(
            f"{source}: looked for the camera {source.sensor!r} in the scene, found {_listed(names)}; "
            + ("name one of those" if names else f"add a camera to the scene, or {_advice(scene)}")
        )
    find_output(source.sensor, source.channel, scene.sensors[names.index(source.sensor)].outputs)
    return Choice(source=source, backend=BackendKind.SENSOR, reason=f"the task renders {source.sensor} itself")


def _choose_visualizer(scene: SceneDescription, source: BackendSource) -> Choice:
    types = [visualizer.type for visualizer in scene.visualizers]
    if KIT in types:
        others = [name for name in types if name in (NEWTON_GL, NEWTON_RTX)]
        reason = "a Kit visualizer is active" + (f", which comes before {' and '.join(others)}" if others else "")
        return _viewed(scene, source, BackendKind.KIT, types.index(KIT), reason)
    if NEWTON_GL in types:
        return _viewed(scene, source, BackendKind.NEWTON, types.index(NEWTON_GL), "a Newton visualizer is active")
    if NEWTON_RTX in types:
        reason = "a Newton RTX visualizer is active; it is drawn by Newton GL, pass visualizer:newton_rtx for its own"
        return _viewed(scene, source, BackendKind.NEWTON, types.index(NEWTON_RTX), reason)
    return _choose_by_stack(scene, source, "no Kit or Newton visualizer is active, but ")


def _choose_named(scene: SceneDescription, source: BackendSource) -> Choice:
    assert source.visualizer is not None
    if source.visualizer in (RERUN, VISER):
        raise SourceUnavailableError(f"{source}: {_why_not(source.visualizer)}; {_advice(scene)}")
    types = [visualizer.type for visualizer in scene.visualizers]
    if source.visualizer not in types:
        raise SourceUnavailableError(
            f"{source}: looked for an active {source.visualizer} visualizer, found {_listed(types)}; "
            f"start the run with --viz {source.visualizer}, or {_advice(scene)}"
        )
    index = types.index(source.visualizer)
    reason = f"the {source.visualizer} visualizer is active"
    if source.streaming_view:
        _check_streaming_view(scene, source, index)
        return Choice(source=source, backend=BackendKind.VISUALIZER, visualizer=index, reason=reason)
    if source.visualizer == NEWTON_RTX:
        reason += ", and path-traces on the training thread"
        return Choice(source=source, backend=BackendKind.VISUALIZER, visualizer=index, reason=reason)
    backend = BackendKind.KIT if source.visualizer == KIT else BackendKind.NEWTON
    return _viewed(scene, source, backend, index, reason)


def _check_streaming_view(scene: SceneDescription, source: BackendSource, index: int) -> None:
    if not scene.visualizers[index].streaming_view:
        raise SourceUnavailableError(
            f"{source}: the {source.visualizer} visualizer shows no streaming view; set streaming_view=True in its "
            f"configuration, or {_advice(scene)}"
        )


def _choose_by_stack(scene: SceneDescription, source: BackendSource, reason: str) -> Choice:
    kit = _signals(scene, Physics.PHYSX, ISAAC_RTX)
    newton = _signals(scene, Physics.NEWTON, NEWTON_WARP)
    if kit:
        before = f", which comes before {' and '.join(newton)}" if newton else ""
        return _viewed(scene, source, BackendKind.KIT, None, f"{reason}there is {' and '.join(kit)}{before}")
    if newton:
        return _viewed(scene, source, BackendKind.NEWTON, None, f"{reason}there is {' and '.join(newton)}")
    found = [f"the {visualizer.type} visualizer" for visualizer in scene.visualizers]
    found += [_SIGNAL_NAMES.get(name, f"the renderer {name}") for name in sorted(scene.renderers)]
    raise SourceUnavailableError(
        f"{source}: looked for "
        + ("a Kit or Newton visualizer, " if source.kind is SourceKind.VISUALIZER else "")
        + "PhysX or Newton physics, the Isaac RTX or the Newton Warp renderer, "
        + f"found {_listed(found)}{_remarks(scene)}; {_advice(scene)}"
    )


def _viewed(
    scene: SceneDescription, source: BackendSource, backend: BackendKind, visualizer: int | None, reason: str
) -> Choice:
    """Return a choice that needs a camera."""
    width, height = scene.resolution
    return Choice(
        source=source,
        backend=backend,
        reason=reason,
        visualizer=visualizer,
        camera=_choose_camera(scene, backend, visualizer),
        width=width,
        height=height,
    )


def _choose_camera(scene: SceneDescription, backend: BackendKind, visualizer: int | None) -> CameraChoice:
    if visualizer is not None:
        chosen = scene.visualizers[visualizer]
        reason = f"the view of the {chosen.type} visualizer"
        if backend is BackendKind.NEWTON:
            return _camera(scene, chosen.viewpoint, f"{reason}, followed", CameraKind.VISUALIZER)
        return _camera(scene, chosen.viewpoint, reason, None)
    if scene.viewer is not None:
        return _camera(scene, scene.viewer, "the task's ViewerCfg", None)
    return _camera(scene, Viewpoint(), "the default", CameraKind.FIXED)


def _camera(scene: SceneDescription, viewpoint: Viewpoint, reason: str, kind: CameraKind | None) -> CameraChoice:
    camera = Camera(eye=viewpoint.eye, lookat=viewpoint.lookat, fov=viewpoint.fov)
    match viewpoint.origin_type:
        case OriginType.WORLD:
            return CameraChoice(kind=kind or CameraKind.FIXED, camera=camera, viewpoint=viewpoint, reason=reason)
        case OriginType.ENV:
            _check_env_index(scene, viewpoint)
            placed = place_camera(camera, scene.env_origins[viewpoint.env_index])
            reason += f", at environment {viewpoint.env_index}"
            return CameraChoice(kind=kind or CameraKind.FIXED, camera=placed, viewpoint=viewpoint, reason=reason)
        case OriginType.ASSET_ROOT | OriginType.ASSET_BODY:
            _check_env_index(scene, viewpoint)
            _check_asset(scene, viewpoint)
            body = f"/{viewpoint.body_name}" if viewpoint.origin_type is OriginType.ASSET_BODY else ""
            reason += f", with {viewpoint.asset_name}{body} of environment {viewpoint.env_index}"
            return CameraChoice(kind=CameraKind.ASSET, camera=camera, viewpoint=viewpoint, reason=reason)


def _check_env_index(scene: SceneDescription, viewpoint: Viewpoint) -> None:
    count = len(scene.env_origins)
    if not 0 <= viewpoint.env_index < count:
        allowed = f"0 to {count - 1}" if count else "none, the scene has no environments"
        raise ConfigurationError(f"env_index: got {viewpoint.env_index!r}; allowed: {allowed}")


def _check_asset(scene: SceneDescription, viewpoint: Viewpoint) -> None:
    if viewpoint.asset_name is None or viewpoint.asset_name not in scene.assets:
        raise ConfigurationError(f"asset_name: got {viewpoint.asset_name!r}; allowed: {_listed(scene.assets)}")
    bodies = scene.assets[viewpoint.asset_name]
    if viewpoint.origin_type is OriginType.ASSET_BODY and viewpoint.body_name not in bodies:
        raise ConfigurationError(
            f"body_name: got {viewpoint.body_name!r}; allowed for {viewpoint.asset_name!r}: {_listed(bodies)}"
        )


def _signals(scene: SceneDescription, physics: Physics, renderer: str) -> list[str]:
    names = {Physics.PHYSX: "PhysX physics", Physics.NEWTON: "Newton physics"}
    found = [names[physics]] if scene.physics is physics else []
    return found + ([_SIGNAL_NAMES[renderer]] if renderer in scene.renderers else [])


def _remarks(scene: SceneDescription) -> str:
    types = {visualizer.type for visualizer in scene.visualizers}
    return "".join(f" ({_why_not(name)})" for name in (RERUN, VISER) if name in types)


def _why_not(visualizer: str) -> str:
    if visualizer == RERUN:
        return "Rerun writes recordings of its own, .rrd, and no pictures"
    return "Viser shows pictures in a browser only"


def _advice(scene: SceneDescription) -> str:
    """Return advice on which source to pass instead of one that is not there."""
    sources = list(_available(scene))
    if sources:
        return f"pass source={' or '.join(sources)}"
    return 'start the run with --viz newton_gl or --viz kit, or add a camera to the scene and pass "sensor:<name>"'


def _available(scene: SceneDescription) -> Iterable[str]:
    types = {visualizer.type for visualizer in scene.visualizers}
    yield from (f'"visualizer:{name}"' for name in (KIT, NEWTON_GL, NEWTON_RTX) if name in types)
    if _signals(scene, Physics.PHYSX, ISAAC_RTX) or _signals(scene, Physics.NEWTON, NEWTON_WARP):
        yield '"renderer"'
    yield from (f'"sensor:{sensor.name}"' for sensor in scene.sensors)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _sum(a: Vector, b: Vector) -> Vector:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
