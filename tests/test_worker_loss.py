"""Workers are killed, and what they held is accounted for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from stepreel import AsyncRecorder, ClipState, DropCause, Recorder, RecorderConfig, RecordingError, WorkerPriority, core
from stepreel.backends.synthetic import SyntheticBackend, read_step
from stepreel.errors import WorkerError
from stepreel.service.threads import Threads
from stepreel.service.worker_process import WorkerProcess, WorkerSetup
from stepreel.transport.messages import Deadlines

from .recordings import check_clip, is_balanced, poll_until, service_of, worker_of, workers_of


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
        worker_of().kill()
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
        worker = worker_of()
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
        worker_of().kill()
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
    assert lost.state is ClipState.UNRENDERED
    assert lost.frames.dropped == {DropCause.WORKER_LOST: 30}
    assert recorder.statistics().worker_restarts == 3
    assert clip.frames.encoded == 30
    check_clip(output_dir, lost)
    check_clip(output_dir, clip)


def test_a_strict_recorder_raises_after_a_worker_was_lost_with_frames(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=40, strict=True)
    recorder = Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.02))

    def train() -> None:
        with recorder:
            for _ in range(10):
                recorder.step()
            wait_for_encoded(recorder, 1)
            worker_of().kill()
            poll_until(lambda: recorder.statistics().worker_restarts == 1)
            recorder.step()

    with pytest.raises(RecordingError, match="worker was lost"):
        train()


def embedded_worker() -> psutil.Process:
    """Return the worker of a service that is embedded in this process."""
    (worker,) = (one for one in psutil.Process().children() if "stepreel.encoders.worker" in one.cmdline())
    return worker


async def test_a_worker_that_can_not_be_replaced_costs_its_clip_and_hangs_nothing(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RecorderConfig(output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=40)
    backend = SyntheticBackend(snapshot=True, render_delay_s=0.01)
    async with AsyncRecorder(config, backend, service="embedded") as recorder:
        for _ in range(10):
            await recorder.step()
        monkeypatch.setattr(sys, "executable", "/nonexistent")
        embedded_worker().kill()
        while recorder.statistics().worker_restarts < 1:  # noqa: ASYNC110 - another process makes it so.
            await anyio.sleep(0.01)
        for _ in range(10):
            await recorder.step()
        with anyio.fail_after(20):
            await recorder.flush()
    (clip,) = recorder.summary().clips
    assert is_balanced(clip.frames)
    assert clip.frames.pending == 0
    assert set(clip.frames.dropped) == {DropCause.WORKER_LOST}


def test_a_frozen_worker_is_ended_and_replaced(output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "DEADLINES", Deadlines(answer_s=0.5))
    config = RecorderConfig(
        output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=40, video_interval=0, gop_s=0.2
    )
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.01)) as recorder:
        for _ in range(20):
            recorder.step()
        wait_for_encoded(recorder, 12)
        worker_of().suspend()
        for _ in range(20):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert recorder.statistics().worker_restarts == 1
    assert clip.frames.encoded > 30
    check_clip(output_dir, clip)


def test_a_renderer_that_kills_every_worker_at_once_makes_no_restart_loop(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=5)
    with Recorder(config, SyntheticBackend(snapshot=True, fatal_steps=range(100))) as recorder:
        for _ in range(5):
            recorder.step()
        assert recorder.flush(timeout_s=30.0)
        restarts = recorder.statistics().worker_restarts
        assert restarts == 3
        assert not recorder.flush(timeout_s=0.0) or recorder.statistics().worker_restarts == restarts


def test_several_workers_each_hear_of_their_frames(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=30, video_interval=30, worker_count=2
    )
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.001)) as recorder:
        for step in range(90):
            recorder.step()
            if step % 20 == 0:
                assert recorder.flush(timeout_s=20.0)
    for clip in recorder.summary().clips:
        assert clip.state is ClipState.COMPLETE
        check_clip(output_dir, clip)


async def test_a_worker_that_can_not_be_started_gets_no_clips_while_another_one_runs(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[WorkerProcess] = []

    async def start_once(setup: WorkerSetup, threads: Threads) -> WorkerProcess:
        if started:
            raise WorkerError("no more processes")
        started.append(worker := await start(setup, threads))
        return worker

    start = WorkerProcess.start
    monkeypatch.setattr(WorkerProcess, "start", start_once)
    config = RecorderConfig(
        output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=5, video_interval=5, worker_count=2
    )
    async with AsyncRecorder(config, SyntheticBackend(), service="embedded") as recorder:
        for step in range(30):
            await recorder.step()
            if step % 5 == 4:
                with anyio.fail_after(20):
                    await recorder.flush()
    clips = recorder.summary().clips
    assert [clip.state for clip in clips] == [ClipState.COMPLETE] * 6


FORKING = """
import os, sys
from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

config = RecorderConfig(output_dir=sys.argv[1], worker_priority="normal", video_length=20, video_interval=0)
with Recorder(config, SyntheticBackend()) as recorder:
    recorder.step()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    lasting = os.fork()
    if lasting == 0:
        os.read(0, 1)
        os._exit(0)
    for _ in range(19):
        recorder.step()
print(recorder.summary().frames.encoded, recorder.statistics().worker_restarts)
"""


def test_a_training_program_may_fork(output_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKING, output_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        line = ""
        while not line.startswith("20 "):
            line = training.stdout.readline()
            assert line
        assert line.split() == ["20", "0"]


INTERRUPTED = """
import sys
from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

class Interrupted(SyntheticBackend):
    def capture(self, request, slot):
        if request.step == 7:
            raise KeyboardInterrupt
        return super().capture(request, slot)

config = RecorderConfig(output_dir=sys.argv[1], worker_priority="normal", video_length=20, video_interval=0)
recorder = Recorder(config, Interrupted())
try:
    with recorder:
        for _ in range(20):
            recorder.step()
except KeyboardInterrupt:
    print("interrupted", recorder.summary().frames)
"""


def test_ctrl_c_during_a_capture_ends_the_training_and_not_the_recording(output_dir: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, output_dir], capture_output=True, text=True, timeout=30, check=True
    )
    assert "interrupted" in run.stdout
    assert "requested=8, encoded=7" in run.stdout


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


def kill_all_but_the_worker(training: subprocess.Popen[str]) -> psutil.Process:
    """Kill a training and its recording service; the service first is stopped, so that none takes over."""
    process = psutil.Process(training.pid)
    worker, service = worker_of(process), service_of(process)
    for one in (process, service):
        one.suspend()
    for one in (process, service):
        one.kill()
    training.wait()
    return worker


def test_a_worker_whose_service_was_killed_closes_its_segment_and_ends(output_dir: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", TRAINING, output_dir], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        while "recording" not in training.stdout.readline():
            pass
        worker = kill_all_but_the_worker(training)
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


RESTING = TRAINING.replace("SyntheticBackend()", "SyntheticBackend(snapshot=True, render_delay_s=0.02)").replace(
    "gop_s=0.2", "gop_s=0.2, render_duty=0.0005"
)
"""A rest takes forty seconds after each frame, longer than anybody waits for a worker that is to end."""


@contextmanager
def resting(output_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a training whose worker has drawn a few frames, and rests."""
    script = RESTING.replace("encoded > 60", "encoded > 0")
    with subprocess.Popen([sys.executable, "-c", script, output_dir], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        while "recording" not in training.stdout.readline():
            pass
        yield training
        training.kill()


def test_a_worker_that_rests_when_its_service_is_killed_closes_its_segment(output_dir: Path) -> None:
    with resting(output_dir) as training:
        worker = kill_all_but_the_worker(training)
        worker.wait(timeout=3)
    assert len(list(output_dir.glob("*.mp4"))) == 1
    assert not list(output_dir.glob("*.mp4.part"))


def test_a_worker_that_rests_when_closing_is_cancelled_closes_its_segment(output_dir: Path) -> None:
    with resting(output_dir) as training:
        for _ in range(2):  # The first ends the training, the second the closing.
            training.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert training.wait(timeout=20) != 0
    assert len(list(output_dir.glob("*.mp4"))) == 1
    assert not list(output_dir.glob("*.mp4.part"))


def test_a_worker_that_is_killed_before_it_is_ready_costs_no_frame(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=20, worker_count=2)
    with Recorder(config, SyntheticBackend(snapshot=True)) as recorder:
        poll_until(lambda: len(workers_of()) == 2)
        workers_of()[-1].kill()
        for _ in range(80):
            recorder.step()
    assert [clip.frames.encoded for clip in recorder.summary().clips] == [20] * 4
