"""The whole path: real workers, real files, decoded back."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import psutil
import pytest

from stepreel import (
    AsyncRecorder,
    BackendError,
    Clip,
    ClipState,
    CodecUnavailableError,
    ConfigurationError,
    DropCause,
    DropPolicy,
    OutputError,
    Recorder,
    RecorderClosedError,
    RecorderConfig,
    RecordingError,
)
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.clip import CaptureRequest, Frame
from stepreel.interfaces import CaptureFormat, Slot
from stepreel.storage.folder_lock import LOCK_FILE
from stepreel.storage.recovery import recover

from .interruptions import Interruption
from .recordings import check_clip, is_balanced, poll_until, shown_steps


def record(config: RecorderConfig, backend: SyntheticBackend, steps: int) -> tuple[Clip, ...]:
    with Recorder(config, backend) as recorder:
        recorder.reset()
        for _ in range(steps):
            recorder.step()
            assert is_balanced(recorder.statistics().frames)
    return recorder.summary().clips


def test_a_recorder_that_is_never_opened_leaves_nothing_behind(output_dir: Path) -> None:
    process = psutil.Process()
    gc.collect()
    before = process.num_fds()
    recorder = Recorder(RecorderConfig(output_dir=output_dir), SyntheticBackend())
    assert process.num_fds() > before
    assert (output_dir / LOCK_FILE).exists()
    del recorder
    gc.collect()
    assert process.num_fds() == before
    assert not (output_dir / LOCK_FILE).exists()


@pytest.mark.parametrize("snapshot", [False, True])
def test_every_requested_frame_is_in_the_file_at_its_time(output_dir: Path, snapshot: bool) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=40, video_interval=60)
    clips = record(config, SyntheticBackend(snapshot=snapshot), 110)
    assert [clip.name for clip in clips] == ["rl-video-step-0", "rl-video-step-60"]
    for clip in clips:
        assert clip.state is ClipState.COMPLETE
        assert clip.frames.encoded == 40
        assert clip.segments[0].duration_s == pytest.approx(40 / 30)
        check_clip(output_dir, clip)


@pytest.mark.parametrize("policy", DropPolicy)
@pytest.mark.parametrize("snapshot", [False, True])
def test_under_every_policy_a_slow_worker_shifts_no_frame(output_dir: Path, policy: DropPolicy, snapshot: bool) -> None:
    config = RecorderConfig(
        output_dir=output_dir,
        video_length=120,
        video_interval=0,
        frame_stride=3,
        queue_depth=4,
        drop_policy=policy,
        block_timeout_s=30.0,
        segment_s=0.5,
    )
    backend = SyntheticBackend(snapshot=snapshot, render_delay_s=0.01 if snapshot else 0.0)
    (clip,) = record(config, backend, 130)
    assert clip.frames.requested == 40
    assert set(clip.frames.dropped) <= {DropCause.QUEUE_FULL}
    assert clip.end_step == 119
    if policy is DropPolicy.BLOCK:
        assert clip.frames.encoded == 40
        assert len(clip.segments) > 1
    elif snapshot:
        assert clip.frames.dropped_total > 0
    check_clip(output_dir, clip)


def config_at(output_dir: Path) -> RecorderConfig:
    return RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0)


def test_a_relative_folder_stays_where_it_was_when_the_training_changes_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Recorder(
        RecorderConfig(output_dir="videos", video_length=5, video_interval=0), SyntheticBackend()
    ) as recorder:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        for _ in range(5):
            recorder.step()
    check_clip(tmp_path / "videos", recorder.summary().clips[0])
    assert (tmp_path / "videos" / "session.jsonl").exists()


def test_a_strict_recorder_raises_after_a_timeout_under_block(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir,
        video_length=20,
        queue_depth=1,
        drop_policy=DropPolicy.BLOCK,
        block_timeout_s=0.01,
        strict=True,
    )
    recorder = Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.3))

    def train() -> None:
        with recorder:
            for _ in range(5):
                recorder.step()

    with pytest.raises(RecordingError, match="queue was full"):
        train()
    assert is_balanced(recorder.summary().frames)


def test_a_loss_in_the_last_clip_is_raised_by_close(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, strict=True)
    recorder = Recorder(config, SyntheticBackend(snapshot=True, failing_steps=(4,)))

    def train() -> None:
        with recorder:
            for _ in range(5):
                recorder.step()

    with pytest.raises(RecordingError, match="render_failed"):
        train()
    check_clip(output_dir, recorder.summary().clips[0])


def test_a_recorder_is_opened_once_and_releases_everything_if_never(output_dir: Path) -> None:
    descriptors = psutil.Process().num_fds()
    recorder = Recorder(RecorderConfig(output_dir=output_dir), SyntheticBackend())
    recorder.close()
    recorder.close()
    assert psutil.Process().num_fds() == descriptors
    with pytest.raises(RecorderClosedError, match="opened once"):
        recorder.__enter__()


def test_a_backend_that_can_not_be_closed_costs_nothing(output_dir: Path) -> None:
    class Sticky(SyntheticBackend):
        def close(self) -> None:
            raise RuntimeError("stuck")

    (clip,) = record(RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0), Sticky(), 10)
    assert clip.frames.encoded == 10
    assert "backend.failed" in (output_dir / "session.jsonl").read_text()


def test_a_frame_larger_than_what_was_asked_of_the_slot_is_refused(output_dir: Path) -> None:
    class Boasting(SyntheticBackend):
        def capture(self, request: CaptureRequest, slot: Slot) -> Any:
            super().capture(request, slot)
            return Frame(height=2000, width=2000)

    (clip,) = record(RecorderConfig(output_dir=output_dir, video_length=3, video_interval=0), Boasting(), 3)
    assert clip.frames.dropped == {DropCause.CAPTURE_FAILED: 3}


def test_episode_clips_of_fixed_length_agree_with_their_files(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, episode_trigger=lambda _: True)
    with Recorder(config, SyntheticBackend()) as recorder:
        for _ in range(3):
            recorder.reset()
            for _ in range(9):
                recorder.step()
    for clip in recorder.summary().clips:
        assert clip.end_step == clip.segments[-1].last_step
        check_clip(output_dir, clip)


def test_blocking_drops_the_new_frame_once_the_timeout_is_over(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir,
        video_length=6,
        queue_depth=1,
        drop_policy=DropPolicy.BLOCK,
        block_timeout_s=0.01,
    )
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.3)) as recorder:
        recorder.step()
        poll_until(lambda: recorder.statistics().queue_depth == 0)  # A worker has it, and draws.
        for _ in range(5):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.frames.dropped[DropCause.QUEUE_FULL] >= 1
    assert clip.missing_steps[-1][1] == 5
    check_clip(output_dir, clip)


def test_segments_roll_over_without_losing_or_doubling_a_frame(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=100, video_interval=0, segment_s=0.7)
    (clip,) = record(config, SyntheticBackend(), 100)
    assert [segment.file for segment in clip.segments] == [f"rl-video-step-0.{n:03d}.mp4" for n in range(5)]
    assert sum(segment.duration_s for segment in clip.segments) == pytest.approx(100 / 30)
    check_clip(output_dir, clip)


def test_segments_roll_over_by_bytes(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=90, video_interval=0, segment_bytes=20_000, gop_s=0.5)
    (clip,) = record(config, SyntheticBackend(), 90)
    assert len(clip.segments) > 1
    check_clip(output_dir, clip)


def test_an_episode_clip_begins_with_the_reset_and_ends_with_the_episode(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=0, episode_trigger=lambda episode: episode == 1)
    with Recorder(config, SyntheticBackend()) as recorder:
        for length in (5, 8, 5):
            recorder.reset()
            for _ in range(length):
                recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.name == "rl-video-episode-1"
    assert shown_steps(output_dir / clip.segments[0].file) == list(range(4, 13))
    check_clip(output_dir, clip)


def test_captures_still_on_their_way_are_waited_for_at_the_end(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0)
    (clip,) = record(config, SyntheticBackend(snapshot=True, snapshot_polls=3), 10)
    assert clip.frames.encoded == 10
    check_clip(output_dir, clip)


def test_flush_waits_for_captures_still_on_their_way(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0)
    with Recorder(config, SyntheticBackend(snapshot=True, snapshot_polls=1000)) as recorder:
        for _ in range(10):
            recorder.step()
        assert recorder.flush(timeout_s=30.0)
        (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 10
    check_clip(output_dir, clip)


def test_captures_still_on_their_way_arrive_outside_a_clip(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=3, video_interval=0)
    with Recorder(config, SyntheticBackend(snapshot=True, snapshot_polls=2)) as recorder:
        for _ in range(20):
            recorder.step()
        assert recorder.flush()
        (clip,) = recorder.summary().clips
    check_clip(output_dir, clip)


def test_several_workers_share_the_clips(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=20, worker_count=2)
    clips = record(config, SyntheticBackend(snapshot=True, render_delay_s=0.002), 80)
    assert [clip.frames.encoded for clip in clips] == [20, 20, 20, 20]
    for clip in clips:
        check_clip(output_dir, clip)


def test_a_second_run_overwrites_nothing(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)
    first = record(config, SyntheticBackend(), 5)
    before = (output_dir / first[0].segments[0].file).read_bytes()
    (second,) = record(config, SyntheticBackend(), 5)
    assert second.name == "rl-video-step-0-2"
    assert (output_dir / first[0].segments[0].file).read_bytes() == before
    check_clip(output_dir, second)


def test_only_the_last_clips_are_kept(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=2, video_interval=4, keep_last_n_clips=2)
    record(config, SyntheticBackend(), 16)
    assert sorted(path.name for path in output_dir.glob("*.mp4")) == ["rl-video-step-12.mp4", "rl-video-step-8.mp4"]


def test_a_capture_that_fails_costs_its_frame_only(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0)
    (clip,) = record(config, SyntheticBackend(failing_steps=(3, 4, 19)), 20)
    assert clip.frames.dropped == {DropCause.CAPTURE_FAILED: 3}
    assert clip.missing_steps == ((3, 4), (19, 19))
    assert clip.state is ClipState.INCOMPLETE
    assert clip.segments[0].duration_s == pytest.approx(20 / 30)
    check_clip(output_dir, clip)


def test_a_rendering_that_fails_costs_its_frame_only(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0)
    (clip,) = record(config, SyntheticBackend(snapshot=True, failing_steps=(0, 7)), 20)
    assert clip.frames.dropped == {DropCause.RENDER_FAILED: 2}
    assert clip.missing_steps == ((0, 0), (7, 7))
    check_clip(output_dir, clip)


def test_a_trigger_that_raises_does_not_reach_the_training(output_dir: Path) -> None:
    def trigger(step: int) -> bool:
        if step == 1:
            raise RuntimeError("not today")
        return step == 2

    config = RecorderConfig(output_dir=output_dir, video_length=2, step_trigger=trigger)
    (clip,) = record(config, SyntheticBackend(), 6)
    assert clip.start_step == 2
    assert "trigger.failed" in (output_dir / "session.jsonl").read_text()


def test_a_strict_recorder_raises_from_the_next_call(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, strict=True)
    with Recorder(config, SyntheticBackend(failing_steps=(1,))) as recorder:
        recorder.step()
        recorder.step()
        with pytest.raises(RecordingError, match="capture failed"):
            recorder.flush()
        recorder.step()
    assert recorder.statistics().steps == 3


def test_a_frame_that_changes_size_goes_into_a_new_segment(output_dir: Path) -> None:
    class Growing(SyntheticBackend):
        def capture(self, request: CaptureRequest, slot: Slot) -> Any:
            if request.step in (5, 12):
                self.open(width=400 if request.step == 5 else 320, height=200, worker_device="auto")
            return super().capture(request, slot)

    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0)
    (clip,) = record(config, Growing(), 20)
    assert [segment.frames for segment in clip.segments] == [5, 7, 8]
    check_clip(output_dir, clip)


def test_odd_sides_are_padded_to_even_and_noted(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)
    (clip,) = record(config, SyntheticBackend(width=321, height=181), 5)
    assert (clip.width, clip.height) == (322, 182)
    assert "video.padded" in (output_dir / "session.jsonl").read_text()
    check_clip(output_dir, clip)


def test_a_folder_that_goes_away_costs_frames_and_a_new_one_is_recorded_into(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=5)
    with Recorder(config, SyntheticBackend()) as recorder:
        for _ in range(5):
            recorder.step()
        recorder.flush()
        shutil.rmtree(output_dir)
        for _ in range(5):
            recorder.step()
        recorder.flush()
        output_dir.mkdir()
        for _ in range(5):
            recorder.step()
    states = [clip.state for clip in recorder.summary().clips]
    assert states == [ClipState.COMPLETE, ClipState.FAILED, ClipState.COMPLETE]
    assert recorder.summary().clips[1].frames.dropped == {DropCause.ENCODE_FAILED: 5}
    check_clip(output_dir, recorder.summary().clips[2])


def test_the_buffer_a_frame_came_from_may_be_overwritten_at_once(output_dir: Path) -> None:
    class Reusing:
        name = "reusing"
        buffer = np.zeros((96, 160, 3), np.uint8)

        def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
            return CaptureFormat(width=None, height=None, nbytes=None, steps_per_second=None)

        def capture(self, request: CaptureRequest, slot: Slot) -> Frame:
            self.buffer[:] = 10 * request.step
            slot.array(self.buffer.nbytes)[:] = self.buffer.ravel()
            self.buffer[:] = 255
            return Frame(height=96, width=160)

        def close(self) -> None:
            pass

    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0, crf=5)
    with Recorder(config, Reusing()) as recorder:
        for _ in range(10):
            recorder.step()
    (clip,) = recorder.summary().clips
    import av

    with av.open(str(output_dir / clip.segments[0].file)) as container:
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert levels == pytest.approx([10 * step for step in range(10)], abs=3)


def test_the_log_tells_what_happened_to_each_clip(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=10)
    record(config, SyntheticBackend(), 20)
    events = [json.loads(line) for line in (output_dir / "session.jsonl").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "session.opened"
    assert names[-1] == "session.closed"
    closed = [event for event in events if event["event"] == "clip.closed"]
    assert [(event["clip"], event["encoded"]) for event in closed] == [("rl-video-step-0", 5), ("rl-video-step-10", 5)]
    assert len(events) < 20


def test_the_session_file_tells_configuration_backend_and_host(output_dir: Path) -> None:
    record(RecorderConfig(output_dir=output_dir, video_length=5, crf=30), SyntheticBackend(), 5)
    session = json.loads((output_dir / "session.json").read_text())
    assert session["configuration"]["crf"] == 30
    assert session["streams"]["default"]["backend"] == "synthetic"
    assert session["codec"] == "libx264"
    assert session["ended_at"] > session["started_at"]
    assert session["host"]["versions"]["av"]


def test_a_hook_hears_of_each_closed_clip_and_may_fail(output_dir: Path) -> None:
    heard: list[str] = []

    def hook(clip: Clip) -> None:
        heard.append(clip.name)
        raise RuntimeError("the hook is broken")

    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=10)
    with Recorder(config, SyntheticBackend(), on_clip_closed=hook) as recorder:
        for _ in range(20):
            recorder.step()
    assert heard == ["rl-video-step-0", "rl-video-step-10"]


def test_a_hook_is_told_where_the_files_of_its_clip_are(output_dir: Path) -> None:
    heard: list[Clip] = []
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)
    with Recorder(config, SyntheticBackend(), on_clip_closed=heard.append) as recorder:
        for _ in range(5):
            recorder.step()
    (clip,) = heard
    assert clip.folder == output_dir
    assert [path.stat().st_size for path in clip.paths] == [segment.nbytes for segment in clip.segments]
    assert recorder.summary().clips[0].paths == clip.paths


def test_statistics_count_times_and_queue(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=30, video_interval=0)
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.002)) as recorder:
        for _ in range(30):
            recorder.step()
        during = recorder.statistics()
        assert recorder.flush()
        after = recorder.statistics()
    assert during.steps == 30
    assert during.queue_depth_high_water > 10
    assert (after.capture.count, after.render.count, after.encode.count) == (30, 30, 30)
    assert 0.002 <= after.render.p50_s <= after.render.p99_s <= after.render.longest_s
    assert after.frames.encoded == 30
    assert (after.queue_depth, after.queue_nbytes, after.clips_open, after.clips_closed) == (0, 0, 0, 1)


def test_after_close_every_call_is_refused_and_closing_again_is_not(output_dir: Path) -> None:
    recorder = Recorder(RecorderConfig(output_dir=output_dir), SyntheticBackend())
    with pytest.raises(RecorderClosedError):
        recorder.step()
    with recorder:
        recorder.step()
    recorder.close()
    for call in (
        recorder.step,
        recorder.reset,
        recorder.start_clip,
        recorder.stop_clip,
        recorder.pause,
        recorder.flush,
    ):
        with pytest.raises(RecorderClosedError):
            call()


def test_an_exception_in_the_training_loop_finishes_the_clip_and_passes(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=50)
    recorder = Recorder(config, SyntheticBackend())

    def train() -> None:
        with recorder:
            for step in range(20):
                recorder.step()
                _ = 1 / (15 - step)

    with pytest.raises(ZeroDivisionError):
        train()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 16
    check_clip(output_dir, clip)


def test_nothing_is_left_behind(output_dir: Path) -> None:
    def traces() -> tuple[int, int, int]:
        gc.collect()  # What earlier tests left to the collector is not this one's.
        process = psutil.Process()
        return process.num_fds(), threading.active_count(), len(process.children())

    config = RecorderConfig(output_dir=output_dir, video_length=5)
    record(config, SyntheticBackend(), 5)
    before = traces()
    for _ in range(3):
        record(config, SyntheticBackend(), 5)
    assert traces() == before


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"codec": "no_such_codec"}, CodecUnavailableError, "no_such_codec"),
        ({"preset": "no_such_preset"}, CodecUnavailableError, "no_such_preset"),
        ({"pix_fmt": "no_such_fmt"}, CodecUnavailableError, "no_such_fmt"),
        ({"queue_bytes": 1000}, ConfigurationError, "at least one capture, 172800"),
    ],
)
def test_what_can_not_work_raises_before_training(
    output_dir: Path, settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    threads = threading.active_count()
    config = RecorderConfig(output_dir=output_dir, **settings)
    with pytest.raises(error, match=text), Recorder(config, SyntheticBackend()):
        pytest.fail("the recorder was opened")
    poll_until(lambda: threading.active_count() <= threads)  # Idle threads of the loop end in their own time.


def test_an_output_folder_that_can_not_be_made_raises_at_construction(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="can't be written: Not a directory"):
        Recorder(RecorderConfig(output_dir=tmp_path / "file" / "videos"), SyntheticBackend())


def test_a_renderer_from_the_script_itself_is_refused(output_dir: Path) -> None:
    script = """
from stepreel import BackendError, Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend, SyntheticRenderer
import dataclasses, sys

class Mine(SyntheticRenderer):
    pass

class Backend(SyntheticBackend):
    def open(self, **sizes):
        found = super().open(**sizes)
        return dataclasses.replace(found, renderer=Mine(width=320, height=180))

try:
    Recorder(RecorderConfig(output_dir=sys.argv[1]), Backend(snapshot=True))
except BackendError as exc:
    print(exc)
"""
    run = subprocess.run([sys.executable, "-c", script, output_dir], capture_output=True, text=True, check=True)
    assert "Mine is defined in the script itself" in run.stdout


def test_backend_errors_reach_the_caller_of_the_constructor(output_dir: Path) -> None:
    with pytest.raises(BackendError):
        Recorder(RecorderConfig(output_dir=output_dir, width=4, height=4), SyntheticBackend())


async def test_async_recorder_captures_before_it_yields(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=30, video_interval=0)
    async with AsyncRecorder(config, SyntheticBackend()) as recorder:
        await recorder.reset()
        for _ in range(30):
            step = recorder.step()
            with pytest.raises(StopIteration):
                step.send(None)  # It came to its end without yielding.
        await recorder.flush()
        (clip,) = recorder.summary().clips
    check_clip(output_dir, clip)
    assert clip.frames.encoded == 30


async def test_async_recorder_yields_while_it_blocks(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir,
        video_length=12,
        video_interval=0,
        queue_depth=1,
        drop_policy=DropPolicy.BLOCK,
        block_timeout_s=30.0,
    )
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0.001)
            turns += 1

    async with AsyncRecorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.02)) as recorder:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_turns)
            for _ in range(12):
                await recorder.step()
            tasks.cancel_scope.cancel()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 12
    assert turns > 10


async def test_a_cancelled_async_recorder_drops_what_waits_and_closes_the_segment(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=60, video_interval=0)
    with anyio.CancelScope() as scope:
        async with AsyncRecorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.02)) as recorder:
            for _ in range(60):
                await recorder.step()
            while recorder.statistics().frames.encoded < 3:  # noqa: ASYNC110 - another process makes it true.
                await anyio.sleep(0.01)
            scope.cancel()
    (clip,) = recorder.summary().clips
    assert clip.frames.dropped[DropCause.CLOSED] > 30
    assert clip.frames.encoded >= 3
    check_clip(output_dir, clip)


async def test_two_recorders_share_one_event_loop(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0)
    other = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0, name_prefix="other")
    async with AsyncRecorder(config, SyntheticBackend()) as one, AsyncRecorder(other, SyntheticBackend()) as two:
        for _ in range(10):
            await one.step()
            await two.step()
    for recorder in (one, two):
        check_clip(output_dir, recorder.summary().clips[0])


def test_importing_stepreel_loads_nothing_heavy() -> None:
    script = """
import sys, stepreel
for name in stepreel.__all__:
    getattr(stepreel, name)
print(*(set(sys.modules) & {"av", "newton", "warp", "mujoco", "gymnasium", "structlog"}))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_every_public_name_is_found_and_no_other() -> None:
    import stepreel

    assert {getattr(stepreel, name).__name__ for name in stepreel.__all__} == set(stepreel.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Job'"):
        _ = stepreel.Job  # type: ignore[attr-defined]


def test_a_disk_below_its_floor_records_nothing_and_training_goes_on(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0, min_free_bytes=2**62)
    (clip,) = record(config, SyntheticBackend(), 20)
    assert clip.frames.dropped == {DropCause.DISK_FULL: 10}
    assert list(output_dir.glob("*.mp4*")) == []


def test_what_is_being_recorded_is_not_repaired(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0)
    with Recorder(config, SyntheticBackend()) as recorder:
        for _ in range(10):
            recorder.step()
        assert recover(output_dir).is_recording
        for _ in range(10):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 20
    assert not (output_dir / LOCK_FILE).exists()
    assert not recover(output_dir).is_recording


def test_closing_that_is_interrupted_opens_each_clip_once(tmp_path: Path) -> None:
    for place in range(60, 100, 4):
        folder = tmp_path / str(place)
        config = RecorderConfig(output_dir=folder, video_length=4, video_interval=4, queue_depth=2)
        recorder = Recorder(config, SyntheticBackend(width=64, height=48, snapshot=True, render_delay_s=0.003))
        recorder.__enter__()
        for _ in range(10):
            recorder.step()
        Interruption(place).run(recorder.close)
        recorder.close()
        names = [clip.name for clip in recorder.summary().clips]
        assert names == [f"rl-video-step-{step}" for step in (0, 4, 8)]
        assert sorted(path.stem for path in folder.glob("rl-video-*.json")) == names
        for clip in recorder.summary().clips:
            check_clip(folder, clip)
