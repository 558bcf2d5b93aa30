"""What happened before: the last seconds of a stream, written when somebody asks for them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stepreel import (
    AsyncRecorder,
    CaptureError,
    ClipState,
    ConfigurationError,
    DropCause,
    DropPolicy,
    Recorder,
    RecorderConfig,
)
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.clip import CaptureRequest, Frame, Snapshot
from stepreel.errors import SourceChangedError
from stepreel.interfaces import Backend, CaptureFormat, PendingSnapshot, Slot
from stepreel.storage.inspection import inspect

from .recordings import check_clip, is_balanced, poll_until, shown_steps, worker_of


def holding(output_dir: Path, **settings: object) -> RecorderConfig:
    return RecorderConfig(output_dir=output_dir, step_offset=10**6, **{"ring_s": 1.0, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("snapshot", [False, True])
def test_the_last_seconds_become_a_clip_like_others(output_dir: Path, snapshot: bool) -> None:
    heard: list[str] = []
    with Recorder(
        holding(output_dir), SyntheticBackend(snapshot=snapshot), on_clip_closed=lambda clip: heard.append(clip.name)
    ) as recorder:
        for _ in range(100):
            recorder.step()
            assert is_balanced(recorder.statistics().frames)
        recorder.save_last()
        for _ in range(50):
            recorder.step()
        assert recorder.flush(timeout_s=20)
        assert heard == ["rl-video-last-99"]
    (clip,) = recorder.summary().clips
    assert (clip.state, clip.end_step) == (ClipState.COMPLETE, 99)
    assert 30 <= clip.frames.encoded <= 60
    assert shown_steps(output_dir / "rl-video-last-99.mp4") == list(range(clip.start_step, 100))
    check_clip(output_dir, clip)
    assert inspect(output_dir).differences == ()
    assert sorted(path.name for path in output_dir.glob("rl-video*")) == [
        "rl-video-last-99.json",
        "rl-video-last-99.mp4",
    ]
    assert recorder.statistics().frames.requested == clip.frames.encoded


def test_what_was_saved_once_is_not_saved_again(output_dir: Path) -> None:
    with Recorder(holding(output_dir), SyntheticBackend()) as recorder:
        for step in range(60):
            recorder.step()
            if step in (39, 49):
                recorder.save_last(name=f"fall-{step}")
    first, second = sorted(recorder.summary().clips, key=lambda clip: clip.start_step)
    assert (first.name, second.name) == ("rl-video-fall-39", "rl-video-fall-49")
    assert (second.start_step, second.frames.encoded) == (40, 10)
    for clip in (first, second):
        check_clip(output_dir, clip)


def test_fewer_seconds_may_be_asked_for_and_more_are_refused(output_dir: Path) -> None:
    with Recorder(holding(output_dir, ring_s=4.0, gop_s=0.5), SyntheticBackend()) as recorder:
        for _ in range(100):
            recorder.step()
        with pytest.raises(ConfigurationError, match=r"seconds: got 5.*at most ring_s \(4\)"):
            recorder.save_last(5)
        with pytest.raises(ConfigurationError, match="name: got"):
            recorder.save_last(name="../up")
        recorder.save_last(1.0)
    (clip,) = recorder.summary().clips
    assert 30 <= clip.frames.encoded < 50


def test_nothing_is_held_unless_wanted(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, step_offset=10**6)
    with Recorder(config, SyntheticBackend()) as recorder:
        recorder.step()
        with pytest.raises(ConfigurationError, match="ring_s"):
            recorder.save_last()
    with pytest.raises(ConfigurationError, match="ring_s"):
        holding(output_dir, render="later")


def test_clips_go_on_beside_what_is_held(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=40, ring_s=1.0, frame_stride=2)
    with Recorder(config, SyntheticBackend()) as recorder:
        for _ in range(80):
            recorder.step()
        recorder.save_last()
    clips = {clip.name: clip for clip in recorder.summary().clips}
    assert sorted(clips) == ["rl-video-last-79", "rl-video-step-0", "rl-video-step-40"]
    assert clips["rl-video-last-79"].frame_stride == 2
    for clip in clips.values():
        assert clip.state is ClipState.COMPLETE
        check_clip(output_dir, clip)


class Counting(SyntheticBackend):
    """Counts how often each step is captured."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.captured: Counter[int] = Counter()

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame | Snapshot | PendingSnapshot:
        self.captured[request.step] += 1
        return super().capture(request, slot)


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("policy", [DropPolicy.THIN, DropPolicy.BLOCK])
def test_a_step_that_is_held_and_in_a_clip_is_captured_once(
    output_dir: Path, snapshot: bool, policy: DropPolicy
) -> None:
    config = RecorderConfig(
        output_dir=output_dir, video_length=20, video_interval=40, ring_s=4.0, drop_policy=policy, worker_count=2
    )
    backend = Counting(snapshot=snapshot)
    with Recorder(config, backend) as recorder:
        recorder.reset()
        for _ in range(80):
            recorder.step()
        recorder.save_last()
    assert backend.captured == Counter(range(80))
    clips = {clip.name: clip for clip in recorder.summary().clips}
    assert [clips[name].frames.encoded for name in sorted(clips)] == [80, 20, 20]
    for clip in clips.values():
        assert clip.state is ClipState.COMPLETE
        check_clip(output_dir, clip)


def test_a_step_that_a_clip_could_not_have_is_held_all_the_same(output_dir: Path) -> None:
    class Shy(Counting):
        def capture(self, request: CaptureRequest, slot: Slot) -> Frame | Snapshot | PendingSnapshot:
            if request.step == 5 and not request.clip.is_ring:
                raise CaptureError("not for clips")
            return super().capture(request, slot)

    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0, ring_s=4.0)
    with Recorder(config, Shy()) as recorder:
        for _ in range(20):
            recorder.step()
        recorder.save_last()
    held, clip = sorted(recorder.summary().clips, key=lambda clip: clip.name)
    assert (held.frames.encoded, clip.missing_steps) == (20, ((5, 5),))


class Replaced(SyntheticBackend):
    """Another simulator from step 20 on; what was announced before can't be captured any more."""

    def __init__(self) -> None:
        super().__init__(snapshot=True)
        self.step = -1
        self.is_announced = False

    def renewed(self) -> CaptureFormat | None:
        if self.step < 20 or self.is_announced:
            return None
        self.is_announced = True
        return self.open(width=None, height=None, worker_device="cpu")

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame | Snapshot | PendingSnapshot:
        self.step = request.step
        if self.step >= 20 and not self.is_announced:
            raise SourceChangedError("it is another one")
        return super().capture(request, slot)


@pytest.mark.parametrize("opens_clip", [False, True])
def test_another_simulator_is_held_from_its_first_step_or_the_next_on(output_dir: Path, opens_clip: bool) -> None:
    backend = Replaced()
    with Recorder(holding(output_dir, ring_s=4.0), backend) as recorder:
        for step in range(40):
            if opens_clip and step == 20:
                backend.step = 20
                recorder.start_clip("new", length=10)
            recorder.step()
        recorder.save_last()
    held = next(clip for clip in recorder.summary().clips if clip.name == "rl-video-last-39")
    assert (held.start_step, held.frames.encoded) == ((20, 20) if opens_clip else (21, 19))
    for clip in recorder.summary().clips:
        assert clip.state is ClipState.COMPLETE
        check_clip(output_dir, clip)


def test_each_stream_has_its_own_last_seconds(output_dir: Path) -> None:
    backends: dict[str, Backend] = {"front": SyntheticBackend(), "side": SyntheticBackend(snapshot=True)}
    with Recorder(holding(output_dir, worker_count=2), backends) as recorder:
        for _ in range(40):
            recorder.step()
        recorder.save_last(name="fall")
    assert sorted(clip.name for clip in recorder.summary().clips) == ["rl-video-front-fall", "rl-video-side-fall"]
    for clip in recorder.summary().clips:
        assert clip.frames.encoded == 40
        check_clip(output_dir, clip)


def test_frames_that_were_dropped_are_missed_by_cause(output_dir: Path) -> None:
    config = holding(output_dir, queue_depth=2, drop_policy=DropPolicy.DROP_NEWEST, ring_s=60.0)
    backend = SyntheticBackend(snapshot=True, render_delay_s=0.01, failing_steps={20})
    with Recorder(config, backend) as recorder:
        for _ in range(60):
            recorder.step()
        recorder.save_last()
    (clip,) = recorder.summary().clips
    assert clip.state is ClipState.INCOMPLETE
    assert set(clip.frames.dropped) <= {DropCause.QUEUE_FULL, DropCause.RENDER_FAILED}
    assert clip.frames.dropped[DropCause.QUEUE_FULL] > 10
    check_clip(output_dir, clip)


def test_with_its_worker_what_was_held_is_lost_and_holding_goes_on(output_dir: Path) -> None:
    with Recorder(holding(output_dir), SyntheticBackend()) as recorder:
        for _ in range(30):
            recorder.step()
        assert recorder.flush(timeout_s=20)
        worker_of().kill()
        poll_until(lambda: recorder.statistics().worker_restarts == 1)
        for _ in range(20):
            recorder.step()
        recorder.save_last()
    (clip,) = recorder.summary().clips
    assert (clip.start_step, clip.frames.encoded) == (30, 20)
    check_clip(output_dir, clip)


def test_a_worker_lost_while_saving_costs_that_clip_only(output_dir: Path) -> None:
    backend = SyntheticBackend(snapshot=True, fatal_steps={29})
    with Recorder(holding(output_dir), backend) as recorder:
        for _ in range(30):
            recorder.step()
        recorder.save_last(name="lost")
        for _ in range(10):
            recorder.step()
        recorder.save_last(name="found")
    clips = {clip.name: clip for clip in recorder.summary().clips}
    assert clips["rl-video-lost"].state is ClipState.FAILED
    assert clips["rl-video-found"].frames.encoded == 10
    assert json.loads((output_dir / "rl-video-lost.json").read_text())["state"] == "failed"
    for clip in clips.values():
        check_clip(output_dir, clip)


def test_saving_before_the_first_step_saves_nothing(output_dir: Path) -> None:
    with Recorder(holding(output_dir), SyntheticBackend()) as recorder:
        recorder.save_last()
        recorder.step()
    assert recorder.summary().clips == ()
    assert not list(output_dir.glob("rl-video*"))


def test_paused_steps_are_not_held(output_dir: Path) -> None:
    with Recorder(holding(output_dir), SyntheticBackend()) as recorder:
        for step in range(30):
            if step == 10:
                recorder.pause()
            if step == 20:
                recorder.resume()
            recorder.step()
        recorder.save_last()
    (clip,) = recorder.summary().clips
    assert shown_steps(output_dir / clip.segments[0].file) == [*range(10), *range(20, 30)]


async def test_async_code_saves_the_last_seconds(output_dir: Path) -> None:
    async with AsyncRecorder(holding(output_dir), SyntheticBackend()) as recorder:
        for _ in range(20):
            await recorder.step()
        recorder.save_last()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 20
    check_clip(output_dir, clip)
