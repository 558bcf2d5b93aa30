"""Workers are killed, and what they held is accounted for."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from stepreel import ClipState, DropCause, Recorder, RecorderConfig, RecordingError, WorkerPriority
from stepreel.backends.synthetic import SyntheticBackend, read_step

from .recordings import check_clip


def worker_of(process: psutil.Process) -> psutil.Process:
    (worker,) = (child for child in process.children() if "stepreel.encoders.worker" in child.cmdline())
    return worker


def poll_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for something in another process that sends no event."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        select.select([], [], [], 0.005)


def wait_for_encoded(recorder: Recorder, frames: int) -> None:
    poll_until(lambda: recorder.statistics().frames.encoded >= frames)


def test_a_killed_worker_is_replaced_and_the_clip_goes_on(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=120, video_interval=0, gop_s=0.2
    )
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.004)) as recorder:
        for _ in range(120):
            recorder.step()
        wait_for_encoded(recorder, 40)
        worker_of(psutil.Process()).kill()
    (clip,) = recorder.summary().clips
    assert clip.state is ClipState.RECOVERED
    assert [segment.file for segment in clip.segments] == ["rl-video-step-0.000.mp4", "rl-video-step-0.001.mp4"]
    assert clip.segments[0].frames > 20
    assert clip.segments[1].last_step == 119
    assert set(clip.frames.dropped) == {DropCause.WORKER_LOST}
    assert clip.frames.dropped_total < 20
    assert recorder.statistics().worker_restarts == 1
    check_clip(output_dir, clip)


def test_a_worker_killed_at_the_end_leaves_one_segment_with_a_plain_name(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, gop_s=0.2)
    with Recorder(config, SyntheticBackend()) as recorder:
        recorder.start_clip("fall")
        for _ in range(60):
            recorder.step()
        wait_for_encoded(recorder, 60)
        worker = worker_of(psutil.Process())
        worker.suspend()
        recorder.stop_clip()
        worker.kill()
    (clip,) = recorder.summary().clips
    assert [segment.file for segment in clip.segments] == ["rl-video-fall.mp4"]
    assert clip.frames.encoded + clip.frames.dropped[DropCause.WORKER_LOST] == 60
    check_clip(output_dir, clip)


def test_a_worker_killed_between_clips_costs_nothing(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=10, video_interval=20
    )
    with Recorder(config, SyntheticBackend()) as recorder:
        for _ in range(15):
            recorder.step()
        recorder.flush()
        worker_of(psutil.Process()).kill()
        for _ in range(15):
            recorder.step()
    clips = recorder.summary().clips
    assert [clip.state for clip in clips] == [ClipState.COMPLETE, ClipState.COMPLETE]
    for clip in clips:
        check_clip(output_dir, clip)


def test_a_frame_that_kills_its_worker_is_tried_twice_and_then_dropped(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=30, video_interval=0, gop_s=0.1
    )
    with Recorder(config, SyntheticBackend(snapshot=True, fatal_steps=(12,))) as recorder:
        for _ in range(30):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert set(clip.frames.dropped) == {DropCause.WORKER_LOST}
    assert clip.missing_steps[-1][1] == 12
    assert clip.frames.dropped_total <= 4
    assert recorder.statistics().worker_restarts == 2
    check_clip(output_dir, clip)


def test_a_clip_that_kills_every_worker_is_set_aside_and_the_next_one_recorded(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=30, video_interval=30
    )
    with Recorder(config, SyntheticBackend(snapshot=True, fatal_steps=range(30))) as recorder:
        for _ in range(30):
            recorder.step()
        recorder.flush()
        for _ in range(30):
            recorder.step()
    lost, clip = recorder.summary().clips
    assert lost.state is ClipState.FAILED
    assert lost.frames.dropped == {DropCause.WORKER_LOST: 30}
    assert recorder.statistics().worker_restarts == 3
    assert clip.frames.encoded == 30
    check_clip(output_dir, lost)
    check_clip(output_dir, clip)


def test_a_strict_recorder_raises_after_a_worker_was_lost_with_frames(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=40, strict=True)
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.02)) as recorder:
        for _ in range(10):
            recorder.step()
        wait_for_encoded(recorder, 1)
        worker_of(psutil.Process()).kill()
        poll_until(lambda: recorder.statistics().worker_restarts == 1)
        with pytest.raises(RecordingError, match="worker was lost"):
            recorder.step()


TRAINING = """
import sys, time
from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

config = RecorderConfig(
    output_dir=sys.argv[1], worker_priority="normal", video_length=100000, video_interval=0, gop_s=0.2
)
with Recorder(config, SyntheticBackend()) as recorder:
    for step in range(100000):
        recorder.step()
        if recorder.statistics().frames.encoded > 60:
            print("recording", flush=True)
        time.sleep(0.002)
"""


def test_a_worker_whose_parent_was_killed_closes_its_segment_and_ends(output_dir: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", TRAINING, output_dir], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        while "recording" not in training.stdout.readline():
            pass
        worker = worker_of(psutil.Process(training.pid))
        training.send_signal(signal.SIGKILL)
        training.wait()
        worker.wait(timeout=10)
    from .recordings import shown_steps

    (segment,) = output_dir.glob("*.mp4")
    assert not list(output_dir.glob("*.mp4.part"))
    steps = shown_steps(segment)
    assert steps == list(range(len(steps)))
    assert len(steps) > 60


def test_ctrl_c_while_closing_drops_what_waits_and_leaves_playable_clips(output_dir: Path) -> None:
    script = TRAINING.replace("SyntheticBackend()", "SyntheticBackend(snapshot=True, render_delay_s=0.05)").replace(
        "encoded > 60", "encoded > 3"
    )
    with subprocess.Popen([sys.executable, "-c", script, output_dir], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        while "recording" not in training.stdout.readline():
            pass
        for _ in range(2):  # The first ends the training, the second the closing.
            training.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert training.wait(timeout=20) != 0
    (segment,) = output_dir.glob("*.mp4")
    assert not list(output_dir.glob("*.mp4.part"))
    import av

    with av.open(str(segment)) as container:
        steps = [read_step(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert steps == list(range(len(steps)))
