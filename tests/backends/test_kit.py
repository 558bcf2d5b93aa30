"""Recordings of a stand-in for Isaac Sim that keeps its documented contract; see `kit_standin` for what that proves."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stepreel import Clip, ClipState, DropCause, Recorder, RecorderConfig
from stepreel.backends.camera import Camera
from stepreel.backends.kit import KitBackend
from stepreel.backends.synthetic import read_step
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest
from stepreel.errors import BackendError, CaptureError, ConfigurationError

from ..memory import make_pool
from ..recordings import check_clip, manifest_of, shown_steps
from .kit_standin import PERSPECTIVE, PLAYS, Drawn, Form, KitStandIn, Simulation

WIDTH, HEIGHT = 320, 180
Kit = Callable[..., KitStandIn]


@pytest.fixture
def make_kit(monkeypatch: pytest.MonkeyPatch) -> Kit:
    def make(**settings: Any) -> KitStandIn:
        kit = KitStandIn(**settings)
        kit.install(monkeypatch)
        return kit

    return make


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(4 * 2**20) as pool:
        slot = pool.lease()
        yield slot
        slot.release()


def record(
    output_dir: Path,
    kit: KitStandIn,
    backend: KitBackend,
    simulation: Simulation,
    *,
    steps: int = 6,
    **settings: Any,
) -> list[Clip]:
    """Record a loop of so many steps; return the clips, held against their files."""
    clips: list[Clip] = []
    config = RecorderConfig(output_dir=output_dir, width=WIDTH, height=HEIGHT, fps=30.0, **settings)
    with Recorder(config, backend, on_clip_closed=clips.append) as recorder:
        for _ in range(steps):
            simulation.step()
            recorder.step()
    for clip in clips:
        check_clip(output_dir, clip)
    assert kit.leftovers == []
    return clips


def source_of_session(output_dir: Path) -> dict[str, Any]:
    """Return what `session.json` says of the source of the pictures."""
    (stream,) = json.loads((output_dir / "session.json").read_text())["streams"].values()
    source: dict[str, Any] = stream["source"]
    return source


def request(step: int, *, clip_index: int = 0) -> CaptureRequest:
    clip = ClipRequest(name=f"clip-{clip_index}", stream="default", start_step=0, frame_stride=1, clip_index=clip_index)
    return CaptureRequest(clip=clip, step=step, pts=step)


def opened(backend: KitBackend) -> KitBackend:
    backend.open(width=WIDTH, height=HEIGHT, worker_device="auto")
    return backend


def captured_step(backend: KitBackend, slot: PoolSlot, step: int, *, clip_index: int = 0) -> int:
    """Capture, and return the step that the picture shows."""
    frame = backend.capture(request(step, clip_index=clip_index), slot)
    return read_step(slot.array(frame.nbytes).reshape(frame.height, frame.width, 3))


@pytest.mark.parametrize("form", Form)
def test_every_form_that_kit_gives_a_picture_in_is_recorded(form: Form, make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit(form=form)
    simulation = Simulation(kit)
    (clip,) = record(output_dir, kit, KitBackend(sim=simulation), simulation)
    assert clip.state is ClipState.COMPLETE
    assert clip.backend == "kit"
    assert shown_steps(output_dir / clip.segments[0].file) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("form", Form)
def test_empty_pictures_are_waited_for_before_training_and_never_become_video(
    form: Form, make_kit: Kit, output_dir: Path
) -> None:
    kit = make_kit(form=form, empty_pictures=7)
    simulation = Simulation(kit)
    (clip,) = record(output_dir, kit, KitBackend(sim=simulation), simulation)
    assert shown_steps(output_dir / clip.segments[0].file) == [0, 1, 2, 3, 4, 5]
    source = source_of_session(output_dir)
    assert (source["empty_pictures"], source["is_warm"]) == (7, True)
    assert kit.updates == 8 + 6


def test_a_warm_up_that_goes_on_into_the_clip_costs_updates_and_no_frame(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit(empty_pictures=9)
    simulation = Simulation(kit)
    backend = KitBackend(sim=simulation, warmup_updates=5)
    (clip,) = record(output_dir, kit, backend, simulation)
    assert clip.state is ClipState.COMPLETE
    assert shown_steps(output_dir / clip.segments[0].file) == [0, 1, 2, 3, 4, 5]
    assert backend.empty_count == 9
    source = source_of_session(output_dir)
    assert (source["empty_pictures"], source["is_warm"]) == (6, False)


def test_a_renderer_that_never_warms_up_costs_the_frames_and_a_bounded_number_of_updates(
    make_kit: Kit, output_dir: Path
) -> None:
    kit = make_kit(empty_pictures=10**6)
    simulation = Simulation(kit)
    backend = KitBackend(sim=simulation, warmup_updates=5)
    (clip,) = record(output_dir, kit, backend, simulation)
    assert clip.state is ClipState.FAILED
    assert clip.frames.dropped == {DropCause.CAPTURE_FAILED: 6}
    assert clip.segments == ()
    assert kit.updates == (1 + 5) + (1 + 5) + 5
    assert backend.empty_count == kit.updates


def test_a_renderer_that_is_late_is_recorded_from_its_first_picture_on(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit(empty_pictures=4)
    simulation = Simulation(kit)
    (clip,) = record(output_dir, kit, KitBackend(sim=simulation, warmup_updates=0), simulation)
    assert clip.state is ClipState.INCOMPLETE
    assert clip.missing_steps == ((0, 2),)
    assert shown_steps(output_dir / clip.segments[0].file) == [3, 4, 5]


def test_what_kit_raises_in_mid_clip_costs_that_frame_only(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit(failing_steps=frozenset({2, 4}))
    simulation = Simulation(kit)
    (clip,) = record(output_dir, kit, KitBackend(sim=simulation), simulation)
    assert shown_steps(output_dir / clip.segments[0].file) == [0, 1, 3, 5]
    assert clip.frames.dropped == {DropCause.CAPTURE_FAILED: 2}
    assert clip.missing_steps == ((2, 2), (4, 4))
    assert "the renderer lost its device" in (output_dir / "session.jsonl").read_text()


def test_after_a_failure_nothing_is_left_rendering(make_kit: Kit, slot: PoolSlot) -> None:
    kit = make_kit(failing_steps=frozenset({0}))
    simulation = Simulation(kit)
    backend = opened(KitBackend(sim=simulation))
    simulation.step()
    with pytest.raises(CaptureError, match=r"KitError: the renderer lost its device") as caught:
        backend.capture(request(0), slot)
    assert caught.value.__cause__ is not None
    assert kit.rendering == []
    backend.close()


def test_between_clips_and_between_captures_nothing_is_drawn(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit()
    simulation = Simulation(kit, is_rendering=True)
    clips = record(
        output_dir,
        kit,
        KitBackend(sim=simulation),
        simulation,
        steps=12,
        video_length=4,
        video_interval=6,
        frame_stride=2,
    )
    assert [clip.start_step for clip in clips] == [0, 6]
    assert [drawn.step for drawn in kit.drawn[1:]] == [0, 2, 6, 8]


def test_poses_are_brought_up_to_date_before_each_capture_and_only_then(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit()
    simulation = Simulation(kit)
    record(output_dir, kit, KitBackend(sim=simulation), simulation, steps=10, video_length=3, video_interval=0)
    assert simulation.forwards == 3


def test_poses_are_handed_over_before_the_picture_is_drawn(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit()
    simulation = Simulation(kit, is_rendering=False)
    order: list[str] = []

    class NewtonSimulation(Simulation):
        def forward(self) -> None:
            order.append("forward")  # Its poses stay where they are computed.

    def push_poses() -> None:
        order.append("push")
        kit.posed_step = kit.step

    backend = KitBackend(sim=NewtonSimulation(kit), push_poses=push_poses)
    (clip,) = record(output_dir, kit, backend, simulation, steps=3)
    assert shown_steps(output_dir / clip.segments[0].file) == [0, 1, 2]
    assert order == ["forward", "push"] * 3


def test_markers_are_moved_with_the_poses(make_kit: Kit, slot: PoolSlot) -> None:
    kit = make_kit()
    simulation: Any = Simulation(kit)
    moved: list[int] = []

    class Markers:
        def dispatch_callbacks(self) -> None:
            moved.append(kit.posed_step)

    simulation.vis_marker_registry = Markers()
    backend = opened(KitBackend(sim=simulation))
    simulation.step()
    backend.capture(request(0), slot)
    assert moved == [0]
    backend.close()


def test_where_the_simulation_draws_each_step_its_picture_is_taken(make_kit: Kit, slot: PoolSlot) -> None:
    kit = make_kit()
    simulation = Simulation(kit, is_rendering=True)
    backend = opened(KitBackend(sim=simulation, is_drawn=lambda: simulation.is_drawn))
    simulation.step()
    updates = kit.updates
    backend.clip_began(request(0).clip)
    for step in range(4):
        assert captured_step(backend, slot, step) == step
        simulation.step()
    # Four by the simulation; one more for the first, drawn before anything of ours was.
    assert kit.updates - updates == 4 + 1
    backend.clip_ended(request(0).clip)
    drawn = len(kit.drawn)
    simulation.step()
    assert len(kit.drawn) == drawn
    backend.close()


def test_a_simulation_that_draws_each_step_is_recorded_without_drawing_it_twice(
    make_kit: Kit, output_dir: Path
) -> None:
    kit = make_kit()
    simulation = Simulation(kit, is_rendering=True)
    backend = KitBackend(sim=simulation, is_drawn=lambda: simulation.is_drawn)
    clips = record(output_dir, kit, backend, simulation, steps=16, video_length=4, video_interval=8)
    assert [shown_steps(output_dir / clip.segments[0].file) for clip in clips] == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert [drawn.step for drawn in kit.drawn[1:]] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert kit.updates == 1 + 16 + 2


def test_a_black_picture_is_in_the_log_of_the_session(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit(black_steps=frozenset({1, 2}))
    simulation = Simulation(kit)
    config = RecorderConfig(output_dir=output_dir, width=WIDTH, height=HEIGHT, fps=30.0)
    with Recorder(config, KitBackend(sim=simulation)) as recorder:
        for _ in range(4):
            simulation.step()
            recorder.step()
    events = [json.loads(line) for line in (output_dir / "session.jsonl").read_text().splitlines()]
    (black,) = [event for event in events if event["event"] == "picture.black"]
    assert (black["clip"], black["count"]) == ("rl-video-step-0", 1)
    assert "cubric" in black["advice"]


def test_a_step_that_the_simulation_did_not_draw_is_drawn_for_the_capture(make_kit: Kit, slot: PoolSlot) -> None:
    kit = make_kit()
    simulation = Simulation(kit, is_rendering=True)
    backend = opened(KitBackend(sim=simulation, is_drawn=lambda: simulation.is_drawn))
    backend.clip_began(request(0).clip)
    simulation.step()
    captured_step(backend, slot, 0)
    simulation.step(render=False)
    simulation.forward()
    assert captured_step(backend, slot, 1) == 1
    backend.clip_ended(request(0).clip)
    backend.close()


def test_an_update_for_a_picture_never_advances_the_physics(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit(empty_pictures=3, failing_steps=frozenset({1}))
    simulation = Simulation(kit)
    record(output_dir, kit, KitBackend(sim=simulation), simulation)
    assert kit.advanced_by_updates == 0
    assert kit.settings[PLAYS] is True


@pytest.mark.parametrize(("before", "after"), [(False, False), (None, True)])
def test_whether_kit_plays_is_left_as_it_was_found(
    before: object, after: object, make_kit: Kit, slot: PoolSlot
) -> None:
    kit = make_kit(settings={PLAYS: before})
    backend = opened(KitBackend())
    kit.posed_step = 5
    backend.capture(request(5), slot)
    assert kit.settings[PLAYS] is after
    backend.close()


def test_the_camera_is_put_where_it_was_asked_for_before_the_first_picture(make_kit: Kit, slot: PoolSlot) -> None:
    kit = make_kit()
    backend = KitBackend(camera=Camera(eye=(1.0, 2.0, 3.0), lookat=(0.0, 0.0, 1.0)))
    described = backend.open(width=WIDTH, height=HEIGHT, worker_device="auto")
    assert kit.cameras[PERSPECTIVE].eye == (1.0, 2.0, 3.0)
    assert kit.cameras[PERSPECTIVE].target == (0.0, 0.0, 1.0)
    assert kit.drawn == [Drawn(-1, (1.0, 2.0, 3.0))]
    assert described.details["camera"] == {"eye": [1.0, 2.0, 3.0], "lookat": [0.0, 0.0, 1.0]}
    backend.close()


def test_without_a_camera_the_prim_stays_where_it_is(make_kit: Kit) -> None:
    kit = make_kit()
    backend = KitBackend(camera=None)
    described = backend.open(width=WIDTH, height=HEIGHT, worker_device="auto")
    assert kit.cameras[PERSPECTIVE].eye is None
    assert described.details["camera"] is None
    backend.close()


def test_a_following_camera_is_asked_at_each_capture(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit()
    simulation = Simulation(kit)

    def follow() -> Camera:
        return Camera(eye=(float(kit.step), 0.0, 2.0), lookat=(kit.step + 5.0, 0.0, 0.0))

    record(output_dir, kit, KitBackend(camera=follow, sim=simulation), simulation, steps=3)
    assert kit.drawn[1:] == [Drawn(step, (float(step), 0.0, 2.0)) for step in range(3)]


def test_streams_that_share_a_camera_prim_each_have_their_own_view(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit()
    simulation = Simulation(kit)
    cameras = {"front": Camera(eye=(5.0, 0.0, 1.0)), "side": Camera(eye=(0.0, 5.0, 1.0))}
    backends = {name: KitBackend(camera=camera, sim=simulation) for name, camera in cameras.items()}
    config = RecorderConfig(output_dir=output_dir, width=WIDTH, height=HEIGHT, fps=30.0)
    with Recorder(config, backends) as recorder:
        for _ in range(3):
            simulation.step()
            recorder.step()
    eyes = [(5.0, 0.0, 1.0), (0.0, 5.0, 1.0)]
    assert kit.drawn == [Drawn(step, eye) for step in range(-1, 3) for eye in eyes]
    assert kit.leftovers == []


def test_without_a_viewport_its_camera_is_authored(make_kit: Kit) -> None:
    kit = make_kit(viewport=False)
    backend = opened(KitBackend(camera=Camera(eye=(3.0, 3.0, 3.0))))
    assert kit.cameras[PERSPECTIVE].eye == (3.0, 3.0, 3.0)
    backend.close()


def test_a_camera_that_is_not_there_is_refused_with_those_that_are(make_kit: Kit) -> None:
    kit = make_kit()
    kit.cameras["/World/Robot/wrist"] = kit.cameras[PERSPECTIVE]
    message = r"no camera at '/World/Robot'; cameras of this stage: /OmniverseKit_Persp, /World/Robot/wrist"
    with pytest.raises(BackendError, match=message):
        opened(KitBackend(camera_prim_path="/World/Robot"))
    assert kit.products == []


def test_a_callback_of_kit_that_closes_the_backend_during_the_warm_up_leaves_nothing_behind(make_kit: Kit) -> None:
    kit = make_kit(empty_pictures=5)
    backend = KitBackend()

    def close_at_the_third() -> None:
        if kit.updates == 3:
            backend.close()

    kit.callbacks.append(close_at_the_third)
    with pytest.raises(BackendError, match="closed while Kit was drawing"):
        opened(backend)
    assert kit.leftovers == []
    assert kit.swallowed == []


def test_a_recorder_that_is_closed_before_the_first_real_picture_leaves_nothing_behind(
    make_kit: Kit, output_dir: Path
) -> None:
    kit = make_kit(empty_pictures=50)
    simulation = Simulation(kit)
    (clip,) = record(output_dir, kit, KitBackend(sim=simulation, warmup_updates=2), simulation, steps=1)
    assert clip.state is ClipState.FAILED
    assert manifest_of(output_dir, clip)["segments"] == []
    assert list(output_dir.glob("*.mp4")) == []


def test_an_app_that_shuts_down_in_mid_clip_costs_the_rest_of_it(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit()
    simulation = Simulation(kit)
    backend = KitBackend(sim=simulation)
    kit.callbacks.append(lambda: setattr(kit, "is_running", kit.step < 3))
    (clip,) = record(output_dir, kit, backend, simulation)
    assert shown_steps(output_dir / clip.segments[0].file) == [0, 1, 2]
    assert clip.missing_steps == ((3, 5),)


def test_ctrl_c_while_kit_draws_reaches_the_training(make_kit: Kit, output_dir: Path) -> None:
    kit = make_kit()
    simulation = Simulation(kit)

    def press() -> None:
        if kit.step == 2:
            signal.raise_signal(signal.SIGINT)

    kit.callbacks.append(press)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        record(output_dir, kit, KitBackend(sim=simulation), simulation)
    assert kit.swallowed == []
    assert signal.getsignal(signal.SIGINT) is handler
    assert shown_steps(next(output_dir.glob("*.mp4"))) == [0, 1]
    assert kit.leftovers == []


def test_kit_is_touched_on_no_other_thread(make_kit: Kit, slot: PoolSlot) -> None:
    make_kit()
    backend = opened(KitBackend())
    raised: list[Exception] = []

    def misuse() -> None:
        for call in (lambda: backend.capture(request(0), slot), backend.close):
            try:
                call()
            except (CaptureError, BackendError) as exc:
                raised.append(exc)

    thread = threading.Thread(target=misuse)
    thread.start()
    thread.join()
    assert [type(exc) for exc in raised] == [CaptureError, BackendError]
    assert "one thread" in str(raised[0])
    backend.close()


def test_a_black_picture_is_told_once_for_a_clip_and_recorded(make_kit: Kit, slot: PoolSlot) -> None:
    kit = make_kit(black_steps=frozenset({1, 2, 4}))
    simulation = Simulation(kit)
    backend = opened(KitBackend(sim=simulation))
    told: list[tuple[str, str]] = []

    def report(event: str, kind: str, *, count: int = 1, **facts: Any) -> None:
        told.append((event, facts["clip"]))

    backend.report_to(report)
    for step in range(6):
        simulation.step()
        frame = backend.capture(request(step, clip_index=step // 4), slot)
        assert slot.array(frame.nbytes).any() == (step not in (1, 2, 4))
    assert told == [("picture.black", "clip-0"), ("picture.black", "clip-1")]
    backend.close()


def test_without_a_recorder_that_listens_a_black_picture_goes_to_the_programs_log(
    make_kit: Kit, slot: PoolSlot, caplog: pytest.LogCaptureFixture
) -> None:
    kit = make_kit(black_steps=frozenset({0}))
    backend = opened(KitBackend())
    kit.posed_step = 0
    backend.capture(request(0), slot)
    assert "picture.black" in caplog.text
    assert "cubric" in caplog.text
    backend.close()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((90, 160, 4), np.uint8), r"shape \[90, 160, 4\]; a picture of 320x180"),
        (np.zeros(320 * 180 * 2, np.uint8), r"shape \[115200\]"),
        (np.zeros((180, 320, 4), np.float32), "float32"),
        ({"info": {}}, "only empty ones"),
        ({"data": []}, "only empty ones"),
        (None, r"shape \[\]"),
    ],
)
def test_what_is_no_picture_of_the_right_kind_costs_the_frame(
    data: object, message: str, make_kit: Kit, slot: PoolSlot, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = make_kit()
    backend = opened(KitBackend(warmup_updates=2))
    monkeypatch.setattr(kit.annotators[0], "get_data", lambda: data)
    with pytest.raises(CaptureError, match=message):
        backend.capture(request(0), slot)
    assert kit.rendering == []
    backend.close()


def test_a_picture_lags_behind_by_as_many_updates_as_are_asked_for(make_kit: Kit, slot: PoolSlot) -> None:
    kit = make_kit()
    backend = opened(KitBackend(updates_per_capture=3))
    updates = kit.updates
    kit.posed_step = 0
    backend.capture(request(0), slot)
    assert kit.updates - updates == 3
    backend.close()


def test_without_kit_the_error_says_how_to_start_it() -> None:
    with pytest.raises(BackendError, match=r"No module named 'omni.*Start Isaac Sim first"):
        opened(KitBackend())


def test_an_app_that_does_not_run_is_refused(make_kit: Kit) -> None:
    make_kit(is_running=False)
    with pytest.raises(BackendError, match="its app is not running"):
        opened(KitBackend())


def test_what_kit_raises_when_opened_is_a_backend_error_and_leaves_nothing_behind(make_kit: Kit) -> None:
    kit = make_kit(failing_steps=frozenset({-1}))
    with pytest.raises(BackendError, match="KitError: the renderer lost its device"):
        opened(KitBackend())
    assert kit.leftovers == []


def test_a_backend_that_is_not_open_has_no_picture(make_kit: Kit, slot: PoolSlot) -> None:
    kit = make_kit()
    backend = opened(KitBackend())
    backend.close()
    backend.close()
    assert kit.leftovers == []
    with pytest.raises(CaptureError, match="not open"):
        backend.capture(request(0), slot)


def test_the_example_of_the_documentation_records(make_kit: Kit, output_dir: Path) -> None:
    simulation = Simulation(make_kit())
    env = SimpleNamespace(unwrapped=SimpleNamespace(sim=simulation, step_dt=1 / 60), step=lambda _: simulation.step())
    text = (Path(__file__).parents[2] / "docs" / "kit.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = code.replace('"videos"', repr(str(output_dir))).replace(
        "video_length=200", "video_length=3, width=320, height=180"
    )
    exec(compile(code, "docs/kit.md", "exec"), {"env": env, "steps": 5, "policy": str, "observation": 0})
    assert shown_steps(output_dir / "rl-video-step-0.mp4") == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"camera": "front"}, "camera: got 'front'"),
        ({"camera_prim_path": "Camera"}, "camera_prim_path: got 'Camera'"),
        ({"updates_per_capture": 0}, "updates_per_capture: got 0; allowed: a whole number, at least 1"),
        ({"warmup_updates": -1}, "warmup_updates: got -1"),
        ({"warmup_updates": 2.5}, r"warmup_updates: got 2\.5"),
        ({"steps_per_second": 0.0}, r"steps_per_second: got 0\.0"),
        ({"sim": object()}, "sim: got <object"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        KitBackend(**settings)
