"""The training programs that faults are injected into: `python -m tests.faults.programs NAME OPTIONS`."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from stepreel import Clip, ClipState, Recorder, RecorderConfig, StepreelError, core
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.config import WorkerPriority
from stepreel.interfaces import Backend

from .diary import Diary, Holdings, Progress, StepTimes, held_beyond

Program = Callable[..., None]
_P = TypeVar("_P", bound=Program)
PROGRAMS: dict[str, Program] = {}
_kept: list[object] = []
"""As a module of a training script keeps its recorder."""


def program(function: _P) -> _P:
    PROGRAMS[function.__name__] = function
    return function


class Desk:
    """A training program's own things: where it writes, and whom it tells."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch
        self.progress = Progress(scratch / "progress")
        self.diary = Diary(scratch / "diary.jsonl")
        self.times = StepTimes(scratch / "times")

    def recorder(self, config: dict[str, Any] | None = None, backend: Backend | None = None, **more: Any) -> Recorder:
        settings: dict[str, Any] = {"output_dir": self.folder, "worker_priority": "normal", **(config or {})}
        backend = backend or SyntheticBackend(width=64, height=48)
        return Recorder(RecorderConfig(**settings), backend, on_clip_closed=self._note_closed, **more)

    def opened(self) -> None:
        self.progress.set("is_open", 1)

    def train(
        self,
        recorder: Recorder,
        steps: int,
        *,
        period_s: float = 0.002,
        note_every: int = 1,
        advance: Callable[[], object] = lambda: None,
    ) -> None:
        """Take `steps` steps, or fewer where the harness says so; note how far it is every so many steps, 0: never."""
        for step in range(steps):
            if self.progress.get("stop"):
                break
            advance()
            start = time.monotonic_ns()
            recorder.step()
            took = time.monotonic_ns() - start
            if note_every and step % note_every == 0:
                self.note(recorder, took, steps=note_every)
            if period_s:
                time.sleep(period_s)

    def note(self, recorder: Recorder, took_ns: int = 0, *, steps: int = 1) -> None:
        """Tell the harness of the last `steps` steps."""
        progress = self.progress
        taken = progress.get("steps") + steps
        self.times.note(taken - 1)
        progress.set("steps", taken)
        progress.set("longest_ns", max(progress.get("longest_ns"), took_ns))
        frames = recorder.statistics().frames
        progress.set("encoded", frames.encoded)
        progress.set("dropped", frames.dropped_total)

    def summarize(self, recorder: Recorder, **facts: Any) -> None:
        """Tell what the recorder says of itself, once it is closed."""
        summary, statistics = recorder.summary(), recorder.statistics()
        frames = summary.frames
        self.diary.tell(
            "summary",
            steps=statistics.steps,
            restarts=statistics.worker_restarts,
            requested=frames.requested,
            encoded=frames.encoded,
            dropped={str(cause): number for cause, number in frames.dropped.items()},
            pending=frames.pending,
            clips=[clip.name for clip in summary.clips],
            states=[str(clip.state) for clip in summary.clips],
            **facts,
        )

    def _note_closed(self, clip: Clip) -> None:
        self.progress.set("closed", self.progress.get("closed") + 1)
        if clip.state is ClipState.COMPLETE:
            self.progress.set("complete", self.progress.get("complete") + 1)
            self.diary.tell("complete", clip=clip.name)


def _synthetic(settings: dict[str, Any]) -> tuple[Backend, Callable[[], object]]:
    return SyntheticBackend(**{"width": 64, "height": 48, **settings}), lambda: None


def _ant(settings: dict[str, Any]) -> tuple[Backend, Callable[[], object]]:
    import gymnasium

    from stepreel.backends.mujoco import MujocoBackend

    env = gymnasium.make("Ant-v5", terminate_when_unhealthy=False, max_episode_steps=-1, **settings)
    env.reset(seed=1)
    return MujocoBackend(env), lambda: env.step(env.action_space.sample())


def _newton(settings: dict[str, Any]) -> tuple[Backend, Callable[[], object]]:
    import newton
    import warp as wp

    from stepreel.backends.newton import NewtonBackend

    wp.config.quiet = True
    builder = newton.ModelBuilder()
    for number in range(3):
        body = builder.add_body(xform=wp.transform((number, 0.0, 1.0), wp.quat_identity()))
        builder.add_shape_box(body, hx=0.2, hy=0.2, hz=0.2)
    model = builder.finalize(device="cpu")
    state = model.state()
    return NewtonBackend(model, lambda: state, steps_per_second=30.0, **settings), lambda: None


SIMULATORS = {"synthetic": _synthetic, "ant": _ant, "newton": _newton}


def patch(constants: dict[str, Any], deadlines: dict[str, float]) -> None:
    """Change constants of modules in this process, and deadlines, which the service is told of."""
    for name, value in constants.items():
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(f"stepreel.{module}"), attribute, value)
    core.DEADLINES = msgspec.structs.replace(core.DEADLINES, **deadlines)


@program
def train(
    desk: Desk,
    *,
    config: dict[str, Any],
    backend: dict[str, Any] | None = None,
    steps: int = 10_000,
    period_s: float = 0.002,
    note_every: int = 1,
    patches: dict[str, Any] | None = None,
    deadlines: dict[str, float] | None = None,
    ending: str = "close",
    ending_step: int = 0,
    simulator: str = "synthetic",
) -> None:
    """An ordinary training loop, that ends in one of several ways."""
    patch(patches or {}, deadlines or {})
    before = Holdings.now()
    source, advance = SIMULATORS[simulator](backend or {})
    recorder = desk.recorder(config, source)
    if ending in ("never_closed", "never_dropped"):
        if ending == "never_dropped":
            _kept.append(recorder)
        recorder.__enter__()
        desk.opened()
        desk.train(recorder, ending_step, period_s=period_s, advance=advance)
        return
    failure: BaseException | None = None
    try:
        with recorder:
            desk.opened()
            steps = steps if ending == "close" else ending_step
            desk.train(recorder, steps, period_s=period_s, note_every=note_every, advance=advance)
            if ending == "segmentation_fault":
                faulthandler._sigsegv()  # type: ignore[attr-defined]
            if ending == "exception":
                raise ValueError("the training itself went wrong")
            if ending == "sys_exit":
                sys.exit(7)
            if ending == "os_exit":
                os._exit(8)
    except BaseException as exc:  # noqa: BLE001 - it goes on below.
        failure = exc.with_traceback(None)  # The interrupted capture's frames hold their slot.
    desk.summarize(recorder)
    desk.diary.tell("holdings", beyond=held_beyond(before))
    if failure:
        raise failure


@program
def interrupted(desk: Desk, *, delays_s: list[float]) -> None:
    """Steps as fast as it can, and is interrupted as by Ctrl-C, wherever it is; then again with the next recorder."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    before = Holdings.now()
    config = {"video_length": 25, "video_interval": 25, "fps": 30}
    recorders = [_interrupt(desk, config, delay_s) for delay_s in delays_s]
    for recorder in recorders:
        desk.summarize(recorder)
    desk.diary.tell("holdings", beyond=held_beyond(before))


def _interrupt(desk: Desk, config: dict[str, Any], delay_s: float) -> Recorder:
    recorder = desk.recorder(config)
    try:
        with recorder:
            desk.opened()
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            while True:
                recorder.step()
    except KeyboardInterrupt:
        pass
    return recorder


@program
def interrupted_at(desk: Desk, *, place: int, closing: bool) -> None:
    """Is interrupted at one instruction: of taking steps, or of closing; then closes, as a `with` block does."""
    from ..interruptions import Interruption

    before = Holdings.now()
    config = {"video_length": 4, "video_interval": 4, "fps": 30, "queue_depth": 2}
    backend = SyntheticBackend(width=64, height=48, snapshot=True, render_delay_s=0.003)
    interruption = Interruption(place)
    recorder = desk.recorder(config, backend)
    recorder.__enter__()
    desk.opened()
    if closing:
        desk.train(recorder, 10, period_s=0.0)
        interruption.run(recorder.close)
    else:
        interruption.run(lambda: desk.train(recorder, 10, period_s=0.0, note_every=0))
    recorder.close()
    desk.summarize(recorder, came=interruption.came)
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def odd_frames(desk: Desk, *, seed: int, steps: int) -> None:
    """Records an environment that draws all sorts of things, and tells which steps must be seen."""
    from .environments import OddFrames

    environment = OddFrames(seed)
    from stepreel.backends.gymnasium import GymnasiumBackend

    before = Holdings.now()
    recorder = desk.recorder({"video_length": steps, "video_interval": 0, "fps": 30}, GymnasiumBackend(environment))
    with recorder:
        desk.opened()
        for _ in range(steps):
            recorder.step()
            environment.overwrite()
            environment.now += 1
            desk.note(recorder)
            time.sleep(0.001)
    desk.summarize(recorder, good=environment.good, bad=environment.bad)
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def broken_renderer(desk: Desk, *, fault: str, steps: int, deadlines: dict[str, float] | None = None) -> None:
    """Records snapshots with a renderer that does not open, or that returns no picture."""
    from .environments import BrokenBackend

    patch({}, deadlines or {})
    recorder = desk.recorder(
        {"video_length": 20, "video_interval": 20, "fps": 30}, BrokenBackend(fault, desk.scratch / "has_hung")
    )
    with recorder:
        desk.opened()
        desk.train(recorder, steps)
    desk.summarize(recorder)


@program
def newton_simulation(desk: Desk, *, fault: str, step_of_fault: int, steps: int) -> None:
    """Records a Newton simulation whose state goes bad on the way."""
    import newton
    import numpy as np
    import warp as wp

    from stepreel.backends.newton import NewtonBackend

    wp.config.quiet = True
    builder = newton.ModelBuilder()
    for number in range(3):
        body = builder.add_body(xform=wp.transform((number, 0.0, 1.0), wp.quat_identity()))
        builder.add_shape_box(body, hx=0.2, hy=0.2, hz=0.2)
    model = builder.finalize(device="cpu")
    states = [model.state()]
    small = newton.ModelBuilder()
    small.add_shape_box(small.add_body(), hx=0.2, hy=0.2, hz=0.2)
    backend = NewtonBackend(model, lambda: states[0], steps_per_second=30.0)
    recorder = desk.recorder({"video_length": 10, "video_interval": 10, "width": 64, "height": 48}, backend)
    with recorder:
        desk.opened()
        for step in range(steps):
            is_bad = step_of_fault <= step < step_of_fault + 5
            if fault == "nan":
                states[0] = model.state()
                if is_bad:
                    states[0].body_q.assign(np.full((3, 7), np.nan, np.float32))
            elif fault == "body_count":
                states[0] = small.finalize(device="cpu").state() if is_bad else model.state()
            recorder.step()
            desk.note(recorder)
    desk.summarize(recorder)


def _load(number: int) -> int:
    """What a data loader does."""
    return number * 2


@program
def many_processes(desk: Desk, *, method: str, steps: int, step_of_start: int) -> None:
    """Starts other processes in the middle of a recording, in one of the ways that training programs do."""
    recorder = desk.recorder({"video_length": 30, "video_interval": 30, "fps": 30})
    readers: list[int] = []
    with recorder:
        desk.opened()
        desk.train(recorder, step_of_start)
        if method == "os_fork":
            readers = [_fork_reader() for _ in range(3)]
        else:
            with multiprocessing.get_context(method).Pool(2) as pool:
                result = pool.map_async(_load, range(8))
                desk.train(recorder, steps // 4)
                assert result.get(30) == [_load(number) for number in range(8)]
        desk.train(recorder, steps - recorder.statistics().steps)
    desk.summarize(recorder)
    # Those that were forked outlive the recorder, and hold what they inherited; nobody may wait for them.
    for fd in readers:
        os.close(fd)


def _fork_reader() -> int:
    """Fork a process that lives until the end of a pipe, which is returned."""
    read_fd, write_fd = os.pipe()
    if os.fork() == 0:
        os.close(write_fd)
        while os.read(read_fd, 1):
            pass
        os._exit(0)
    os.close(read_fd)
    return write_fd


@program
def forked_close(desk: Desk, *, steps: int, step_of_fork: int) -> None:
    """Forks a child that leaves the `with` block like its parent."""
    recorder = desk.recorder({"video_length": steps, "video_interval": 0, "fps": 30})
    child = -1
    with recorder:
        desk.opened()
        desk.train(recorder, step_of_fork)
        child = os.fork()
        if child:
            desk.train(recorder, steps - step_of_fork)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    desk.summarize(recorder)


@program
def two_recorders(desk: Desk, *, steps: int) -> None:
    before = Holdings.now()
    left = desk.recorder({"name_prefix": "left", "video_length": 20, "video_interval": 20, "fps": 30})
    right = desk.recorder({"name_prefix": "right", "video_length": 30, "video_interval": 30, "fps": 30})
    with left, right:
        desk.opened()
        for _ in range(steps):
            desk.train(left, 1, period_s=0.0)
            desk.train(right, 1, note_every=0)
    desk.summarize(left)
    desk.summarize(right)
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def in_a_thread(desk: Desk, *, steps: int) -> None:
    before = Holdings.now()

    def record() -> None:
        with desk.recorder({"video_length": 30, "video_interval": 30, "fps": 30}) as recorder:
            desk.opened()
            desk.train(recorder, steps)
        desk.summarize(recorder)

    thread = threading.Thread(target=record)
    thread.start()
    thread.join()
    desk.diary.tell("holdings", beyond=held_beyond(before))


def _is_closed(recorder: Recorder, errors: list[str]) -> bool:
    """Close it; return whether that worked, or was refused in the middle of a capture: then it is tried again."""
    try:
        recorder.close()
    except StepreelError as exc:
        errors.append(type(exc).__name__)
        return False
    return True


@program
def closed_elsewhere(desk: Desk, *, steps: int, delay_s: float, threads: int) -> None:
    """Other threads close the recorder while the training thread captures."""
    before = Holdings.now()
    recorder = desk.recorder({"video_length": 30, "video_interval": 30, "fps": 30})
    errors: list[str] = []

    def close() -> None:
        time.sleep(delay_s)
        try:
            while not _is_closed(recorder, errors):
                pass
        except Exception as exc:  # noqa: BLE001 - whatever it is, the harness is told.
            errors.append(f"untyped in close: {exc!r}")

    closers = [threading.Thread(target=close) for _ in range(threads)]
    recorder.__enter__()
    desk.opened()
    for closer in closers:
        closer.start()
    try:
        desk.train(recorder, steps, period_s=0.0005)
    except StepreelError as exc:
        errors.append(type(exc).__name__)
    except Exception as exc:  # noqa: BLE001
        errors.append(f"untyped in step: {exc!r}")
    for closer in closers:
        closer.join(30)
    recorder.close()
    desk.summarize(recorder, errors=errors, stuck=sum(closer.is_alive() for closer in closers))
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def closed_during_capture(desk: Desk, *, steps: int, step_of_close: int) -> None:
    """A capture closes the recorder that asked for it."""

    class Closing(SyntheticBackend):
        def capture(self, request: Any, slot: Any) -> Any:
            if request.step == step_of_close:
                recorder.close()
            return super().capture(request, slot)

    before = Holdings.now()
    errors: list[str] = []
    recorder = desk.recorder({"video_length": steps, "video_interval": 0, "fps": 30}, Closing(width=64, height=48))
    try:
        with recorder:
            desk.opened()
            desk.train(recorder, steps)
    except StepreelError as exc:
        errors.append(type(exc).__name__)
    recorder.close()
    recorder.close()
    desk.summarize(recorder, errors=errors, stuck=0)
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def clock_set_back(desk: Desk, *, steps: int, step_of_change: int, by_s: float) -> None:
    """The time of day jumps, for all who ask `time.time`."""
    recorder = desk.recorder({"video_length": 40, "video_interval": 40, "fps": 30, "segment_s": 0.2})
    real = time.time
    with recorder:
        desk.opened()
        desk.train(recorder, step_of_change)
        time.time = lambda: real() - by_s
        desk.train(recorder, steps - step_of_change)
    statistics = recorder.statistics()
    spans = [statistics.capture, statistics.render, statistics.encode]
    desk.summarize(recorder, shortest_s=min(min(one.p50_s, one.p99_s, one.longest_s) for one in spans))


@program
def names(desk: Desk, *, hostile: list[str]) -> None:
    """Tries hostile names as prefixes and as names of clips."""
    outcomes: dict[str, str] = {}
    for number, name in enumerate(hostile):
        try:
            with desk.recorder({"name_prefix": name, "video_length": 3, "video_interval": 0}) as recorder:
                desk.train(recorder, 3, period_s=0.0)
            outcomes[f"{number} prefix"] = "recorded"
        except StepreelError as exc:
            outcomes[f"{number} prefix"] = f"{type(exc).__name__}: {exc}"
        except Exception as exc:  # noqa: BLE001
            outcomes[f"{number} prefix"] = f"untyped: {exc!r}"
    with desk.recorder({"video_length": 3, "step_trigger": None, "step_offset": 10**9}) as recorder:
        for number, name in enumerate(hostile):
            try:
                recorder.start_clip(name, length=2)
                desk.train(recorder, 3, period_s=0.0)
                outcomes[f"{number} clip"] = "recorded"
            except StepreelError as exc:
                outcomes[f"{number} clip"] = f"{type(exc).__name__}: {exc}"
            except Exception as exc:  # noqa: BLE001
                outcomes[f"{number} clip"] = f"untyped: {exc!r}"
    desk.diary.tell("outcomes", outcomes=outcomes)


class _OwnError(BaseException):
    """One that `except Exception` does not catch."""


class _NoTextError(Exception):
    """One that can't even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


_RUDE: dict[str, Callable[[], BaseException]] = {
    "exits": lambda: SystemExit(3),
    "base_exception": lambda: _OwnError("own"),
    "no_text": _NoTextError,
}


class _Rude:
    """Functions of a user that raise."""

    def __init__(self, kind: str, diary: Diary) -> None:
        import structlog

        self._error = _RUDE[kind]
        self._diary = diary
        self.called: set[str] = set()
        structlog.configure(processors=[lambda *_: self._fail("log")])
        self.config: dict[str, Any] = {
            "name_prefix": kind,
            "video_length": 10,
            "fps": 30,
            "segment_s": 0.2,
            "step_trigger": self._trigger,
            "keep": lambda _: self._fail("keep"),
        }
        self.hooks: dict[str, Any] = {
            "on_clip_closed": lambda _: self._fail("clip"),
            "on_segment_closed": lambda *_: self._fail("segment"),
        }
        self.async_hooks: dict[str, Any] = {"on_clip_closed": self._hear_clip, "on_segment_closed": self._hear_segment}

    def _trigger(self, step: int) -> bool:
        return step % 20 == 0 if step % 2 == 0 else self._fail("trigger")

    async def _hear_clip(self, clip: Clip) -> None:
        self._fail("clip")

    async def _hear_segment(self, *_: Any) -> None:
        self._fail("segment")

    def _fail(self, name: str) -> Any:
        self.called.add(name)
        raise self._error()

    def check(self) -> None:
        assert self.called == {"log", "keep", "clip", "segment", "trigger"}, self.called


@program
def rude_callbacks(desk: Desk, *, rudeness: str, steps: int) -> None:
    """All that a user may hand over raises."""
    rude = _Rude(rudeness, desk.diary)
    before = Holdings.now()
    config = RecorderConfig(output_dir=desk.folder, worker_priority=WorkerPriority.NORMAL, **rude.config)
    recorder = Recorder(config, SyntheticBackend(width=64, height=48), **rude.hooks)
    with recorder:
        desk.opened()
        for _ in range(steps):
            recorder.step()
            if recorder.statistics().steps % 30 == 0:
                recorder.end_episode(episode_return=1.0)
                recorder.reset()
            time.sleep(0.005)
    rude.check()
    desk.summarize(recorder)
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def rude_async_callbacks(desk: Desk, *, rudeness: str, steps: int, service: str) -> None:
    """All that a user may hand over raises, in an event loop."""
    import anyio

    from stepreel import AsyncRecorder

    rude = _Rude(rudeness, desk.diary)
    before = Holdings.now()
    config = RecorderConfig(output_dir=desk.folder, worker_priority=WorkerPriority.NORMAL, **rude.config)

    async def record() -> Any:
        source = SyntheticBackend(width=64, height=48)
        async with AsyncRecorder(config, source, service=service, **rude.async_hooks) as recorder:
            desk.opened()
            for _ in range(steps):
                await recorder.step()
                if recorder.statistics().steps % 30 == 0:
                    recorder.end_episode(episode_return=1.0)
                    await recorder.reset()
                await anyio.sleep(0.005)
        return recorder

    recorder = anyio.run(record)
    rude.check()
    desk.summarize(recorder)
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def rude_camera(desk: Desk, *, rudeness: str, steps: int) -> None:
    """The function that tells the camera of each capture raises now and then."""
    import mujoco

    from stepreel.backends.camera import Camera
    from stepreel.backends.mujoco import MujocoBackend

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size=".5"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    recorder: Recorder | None = None

    def camera() -> Camera:
        if recorder and recorder.statistics().steps % 7 == 4:
            raise _RUDE[rudeness]()
        return Camera(eye=(2.0, 2.0, 1.0), lookat=(0.0, 0.0, 0.0))

    before = Holdings.now()
    source = MujocoBackend(model, data, camera=camera, steps_per_second=30.0)
    config = {"name_prefix": rudeness, "video_length": steps, "video_interval": 0, "width": 64, "height": 48}
    recorder = desk.recorder(config, source)
    with recorder:
        desk.opened()
        desk.train(recorder, steps, period_s=0.001)
    desk.summarize(recorder)
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def dropped(desk: Desk, *, steps: int) -> None:
    """Lets go of its recorder without closing it, and trains on."""
    before = Holdings.now()
    _record_and_forget(desk, steps)
    gc.collect()
    desk.diary.tell("dropped")
    while not desk.progress.get("stop"):
        time.sleep(0.005)
    desk.diary.tell("holdings", beyond=held_beyond(before))


def _record_and_forget(desk: Desk, steps: int) -> None:
    backend = SyntheticBackend(width=64, height=48, snapshot=True, render_delay_s=0.005)
    recorder = desk.recorder({"video_length": 100, "video_interval": 100, "fps": 30}, backend)
    recorder.__enter__()
    desk.opened()
    desk.train(recorder, steps)


@program
def forked_steps(desk: Desk, *, steps: int, step_of_fork: int) -> None:
    """Forks a child that steps its copy of the recorder, and closes it."""
    before = Holdings.now()
    recorder = desk.recorder({"video_length": steps, "video_interval": 0, "fps": 30})
    with recorder:
        desk.opened()
        desk.train(recorder, step_of_fork)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            for _ in range(steps):
                recorder.step()
            recorder.end_episode()
            recorder.reset()
            recorder.flush(5.0)
            recorder.close()
            os._exit(0)
        desk.train(recorder, steps - step_of_fork)
    desk.diary.tell("child", status=os.waitpid(child, 0)[1])
    desk.summarize(recorder)
    desk.diary.tell("holdings", beyond=held_beyond(before))


@program
def forks_at_the_start(desk: Desk, *, steps: int) -> None:
    """Another thread forks processes while service and worker start; they outlive the recorder."""
    before = Holdings.now()
    readers: list[int] = []
    is_over = threading.Event()

    def fork() -> None:
        while not is_over.is_set() and len(readers) < 60:
            readers.append(_fork_reader())
            time.sleep(0.01)

    forking = threading.Thread(target=fork)
    recorder = desk.recorder({"video_length": steps, "video_interval": 0, "fps": 30})
    forking.start()
    with recorder:
        desk.opened()
        is_over.set()
        forking.join()
        desk.train(recorder, steps)
        start = time.monotonic()
    took_s = time.monotonic() - start
    for fd in readers:
        os.close(fd)
    for _ in readers:
        os.wait()
    desk.summarize(recorder, took_s=took_s, forked=len(readers))
    desk.diary.tell("holdings", beyond=held_beyond(before))


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A background job of a shell is told to ignore it.
    faulthandler.register(signal.SIGUSR1)  # The harness asks a program that does not end where it is.
    name, folder, scratch, options = sys.argv[1:]
    PROGRAMS[name](Desk(Path(folder), Path(scratch)), **json.loads(options))


if __name__ == "__main__":
    main()
