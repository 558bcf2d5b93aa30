"""The recording service: it outlives training, is replaced when it dies, and nobody waits for what they need not."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from stepreel import (
    AsyncRecorder,
    Clip,
    ClipState,
    ConfigurationError,
    DropPolicy,
    Episode,
    Finish,
    Recorder,
    RecorderConfig,
    WorkerPriority,
)
from stepreel import link as link_module
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.storage.manifest import read_manifest
from stepreel.storage.recovery import recover

from .recordings import (
    check_clip,
    has_ended,
    is_balanced,
    kill_everything,
    poll_until,
    service_of,
    shown_steps,
    worker_of,
)

TRAINING = """
import os, sys, time
from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

config = RecorderConfig(output_dir=sys.argv[1], worker_priority="normal", video_length=100000, video_interval=0)
backend = SyntheticBackend(snapshot={snapshot}, render_delay_s={delay})
with Recorder(config, backend) as recorder:
    for step in range(100000):
        recorder.step()
        if step == {last}:
            print("stepped", flush=True)
            {ending}
        time.sleep(0.001)
"""


@contextmanager
def training(
    output_dir: Path, *, snapshot: bool, last: int, ending: str, delay: float = 0.0
) -> Iterator[psutil.Process]:
    """Run a training program, which does something after a step, and end it with all that it started."""
    script = TRAINING.format(snapshot=snapshot, delay=delay, last=last, ending=ending)
    with subprocess.Popen([sys.executable, "-c", script, output_dir], stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        while "stepped" not in popen.stdout.readline():
            pass
        try:
            yield psutil.Process(popen.pid)
        finally:
            popen.kill()


@pytest.mark.parametrize("snapshot", [True, False])
@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("os.kill(os.getpid(), 9)", "killed at step 120"),
        ("import faulthandler; faulthandler._sigsegv()", "killed at step 120"),
        ("os._exit(3)", "exited with status 3 at step 120"),
    ],
)
def test_what_was_captured_is_in_the_files_however_training_ends(
    output_dir: Path, snapshot: bool, ending: str, told: str
) -> None:
    delay = 0.01 if snapshot else 0.0
    # Pixels wait for their encoder; the program waits for its death.
    with training(output_dir, snapshot=snapshot, last=120, delay=delay, ending="sys.stdin.read(1); " + ending):
        pass
    poll_until(lambda: not list(output_dir.glob(".stepreel.lock")), timeout_s=30)
    clip = read_manifest(output_dir / "rl-video-step-0.json")
    assert clip.frames.encoded == clip.frames.requested == 121
    assert clip.end_step == 120
    assert clip.ended in (told, "killed at step 120")
    check_clip(output_dir, clip)
    assert json.loads((output_dir / "session.json").read_text())["ended"] == clip.ended


def test_snapshots_survive_a_kill_of_everything_up_to_the_last_second(output_dir: Path) -> None:
    with training(output_dir, snapshot=True, last=500, delay=0.02, ending="pass") as process:
        part = output_dir / "rl-video-step-0.snapshots.npz.part"
        poll_until(lambda: part.exists() and b"steps/500.npy" in part.read_bytes(), timeout_s=5)
        kill_everything(process)
    assert recover(output_dir).problems == ()
    run = subprocess.run([sys.executable, "-m", "stepreel.cli", "recover", output_dir], capture_output=True, text=True)
    assert run.returncode in (0, 3), run.stdout + run.stderr
    clip = read_manifest(output_dir / "rl-video-step-0.json")
    shown = [step for segment in clip.segments for step in shown_steps(output_dir / segment.file)]
    assert shown[:501] == list(range(501))


def test_a_killed_service_is_replaced_and_loses_nothing_that_waits(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir, worker_priority=WorkerPriority.NORMAL, video_length=120, video_interval=0
    )
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.01)) as recorder:
        for _ in range(60):
            recorder.step()
        poll_until(lambda: recorder.statistics().frames.encoded >= 20)
        service_of().kill()
        for _ in range(60):
            recorder.step()
            assert is_balanced(recorder.statistics().frames)
    (clip,) = recorder.summary().clips
    assert clip.frames.requested == 120
    assert clip.frames.encoded == 120, clip
    check_clip(output_dir, clip)
    assert "service.restarted" in (output_dir / "session.jsonl").read_text()


def test_a_service_killed_together_with_its_worker_loses_no_more_than_an_open_fragment(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir,
        worker_priority=WorkerPriority.NORMAL,
        video_length=120,
        video_interval=0,
        gop_s=0.2,
    )
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.01)) as recorder:
        for _ in range(60):
            recorder.step()
        poll_until(lambda: recorder.statistics().frames.encoded >= 20)
        both = [service_of(), worker_of()]
        for one in both:
            one.suspend()
        for one in both:
            one.kill()
        for _ in range(60):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.frames.requested == 120
    assert clip.frames.encoded >= 110
    check_clip(output_dir, clip)


def test_services_that_are_killed_again_and_again_end_the_recording_and_not_the_training(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=400, video_interval=0)
    monkeypatch.setattr(link_module, "_MOST_RESTARTS", 2)
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=10.0)) as recorder:
        killed = set[int]()
        for _ in range(3):
            recorder.step()
            poll_until(lambda: any(one.pid not in killed for one in services()))
            service = service_of()
            killed.add(service.pid)
            service.kill()
            poll_until(lambda service=service: has_ended(service))  # type: ignore[misc]
        poll_until(lambda: recorder._core.link.is_over)
        for _ in range(10):
            recorder.step()
        assert recorder.flush(timeout_s=5)
    assert not services()


def services() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if not has_ended(one) and "stepreel.service" in one.cmdline()]


def test_a_service_that_does_not_move_is_replaced(output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_LOOK_S", 0.1)
    config = RecorderConfig(output_dir=output_dir, video_length=60, video_interval=0)
    with Recorder(config, SyntheticBackend(snapshot=True)) as recorder:
        for _ in range(30):
            recorder.step()
        service_of().suspend()
        for _ in range(30):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 60
    check_clip(output_dir, clip)


def test_a_clip_that_was_announced_is_not_announced_again_by_the_next_service(output_dir: Path) -> None:
    heard: list[str] = []
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=10)
    with Recorder(config, SyntheticBackend(), on_clip_closed=lambda clip: heard.append(clip.name)) as recorder:
        for step in range(40):
            recorder.step()
            if step in (7, 17):
                recorder.flush()
                service_of().kill()
    assert heard == [f"rl-video-step-{step}" for step in (0, 10, 20, 30)]
    assert [clip.name for clip in recorder.summary().clips] == heard


def test_closing_in_the_background_returns_and_the_service_finishes(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=60, video_interval=0, finish="background")  # type: ignore[arg-type]
    start = time.monotonic()
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.05)) as recorder:
        for _ in range(60):
            recorder.step()
        service = service_of()
    assert time.monotonic() - start < 60
    assert not (output_dir / "rl-video-step-0.mp4").exists()
    poll_until(lambda: (output_dir / "rl-video-step-0.mp4").exists())
    poll_until(lambda: has_ended(service))
    clip = read_manifest(output_dir / "rl-video-step-0.json")
    assert (clip.state, clip.frames.encoded, clip.ended) == (ClipState.COMPLETE, 60, None)
    assert not list(output_dir.glob(".stepreel*"))


def test_what_a_killed_service_said_of_what_is_left_goes_with_it(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0)
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.1)) as recorder:
        for _ in range(20):
            recorder.step()
        service = service_of()
        with ThreadPoolExecutor(1) as pool:
            closing = pool.submit(recorder.close)
            poll_until(lambda: (output_dir / f".stepreel-{service.pid}").exists())
            service.kill()
            closing.result()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 20
    assert not list(output_dir.glob(".stepreel*"))


async def test_an_async_recorder_closes_in_the_background_too(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=20, video_interval=0, finish=Finish.BACKGROUND)
    async with AsyncRecorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.05)) as recorder:
        for _ in range(20):
            await recorder.step()
        service = service_of()
    poll_until(lambda: has_ended(service))
    clip = await anyio.to_thread.run_sync(read_manifest, output_dir / "rl-video-step-0.json")
    assert clip.frames.encoded == 20


def test_a_recorder_that_is_dropped_without_close_leaves_a_whole_clip_and_no_process(output_dir: Path) -> None:
    recorder = Recorder(RecorderConfig(output_dir=output_dir, video_length=100), SyntheticBackend())
    recorder.__enter__()
    for _ in range(20):
        recorder.step()
    service = service_of()
    del recorder
    gc.collect()
    poll_until(lambda: has_ended(service))
    clip = read_manifest(output_dir / "rl-video-step-0.json")
    assert (clip.frames.encoded, clip.end_step) == (20, 19)
    check_clip(output_dir, clip)
    poll_until(lambda: "stepreel" not in [thread.name for thread in threading.enumerate()])


FORKED = """
import os, sys
from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

config = RecorderConfig(output_dir=sys.argv[1], video_length=20, video_interval=0)
with Recorder(config, SyntheticBackend()) as recorder:
    for _ in range(10):
        recorder.step()
    child = os.fork()
    if child == 0:  # A worker of a vector environment, with its copy of the environment and of the recorder.
        for _ in range(50):
            recorder.step()
        recorder.reset()
        assert recorder.flush()
        recorder.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(10):
        recorder.step()
print(recorder.summary().frames, recorder.statistics().steps)
"""


def test_a_forked_process_that_steps_its_copy_records_nothing_and_hangs_nothing(output_dir: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED, output_dir], capture_output=True, text=True, timeout=40, check=True
    )
    assert "requested=20, encoded=20" in run.stdout
    assert run.stdout.rstrip().endswith(" 20")
    check_clip(output_dir, read_manifest(output_dir / "rl-video-step-0.json"))


class Nasty(BaseException):
    """No `Exception`, and without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [SystemExit("stop"), Nasty(), KeyboardInterrupt()])
def test_a_hook_may_raise_anything(output_dir: Path, error: BaseException) -> None:
    def hook(clip: Clip) -> None:
        heard.append(clip.name)
        raise error

    heard: list[str] = []
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=10)
    with Recorder(config, SyntheticBackend(), on_clip_closed=hook) as recorder:
        for _ in range(20):
            recorder.step()
    assert heard == ["rl-video-step-0", "rl-video-step-10"]
    assert "hook.failed" in (output_dir / "session.jsonl").read_text()


@pytest.mark.parametrize("error", [SystemExit("stop"), Nasty()])
def test_triggers_and_rules_may_raise_anything(output_dir: Path, error: BaseException) -> None:
    def fail(_: Any) -> bool:
        raise error

    def rule(episode: Episode) -> bool:
        raise error

    config = RecorderConfig(output_dir=output_dir, video_length=5, step_trigger=fail, episode_trigger=fail, keep=rule)
    with Recorder(config, SyntheticBackend()) as recorder:
        recorder.start_clip("mine", length=5)
        for _ in range(10):
            recorder.step()
        recorder.end_episode(terminated=True)
        recorder.reset()
    assert [clip.name for clip in recorder.summary().clips] == ["rl-video-mine"]
    log = (output_dir / "session.jsonl").read_text()
    assert "trigger.failed" in log
    assert "keep.failed" in log


def test_a_log_processor_may_raise_anything(output_dir: Path) -> None:
    import structlog

    def processor(*arguments: Any) -> Any:
        raise Nasty

    structlog.configure(processors=[processor])
    try:
        with Recorder(RecorderConfig(output_dir=output_dir, video_length=5), SyntheticBackend()) as recorder:
            for _ in range(10):
                recorder.step()
    finally:
        structlog.reset_defaults()
    assert recorder.summary().clips[0].frames.encoded == 5
    assert "log.failed" in (output_dir / "session.jsonl").read_text()


def test_a_coroutine_is_no_hook_of_a_blocking_recorder(output_dir: Path) -> None:
    async def hook(clip: Clip) -> None:
        pass

    with pytest.raises(ConfigurationError, match="coroutine"):
        Recorder(RecorderConfig(output_dir=output_dir), SyntheticBackend(), on_clip_closed=hook)  # type: ignore[arg-type]


@pytest.mark.parametrize("service", ["process", "embedded"])
async def test_an_async_recorder_awaits_its_hooks(output_dir: Path, service: str) -> None:
    heard: list[str] = []

    async def hook(clip: Clip) -> None:
        await anyio.lowlevel.checkpoint()
        heard.append(clip.name)

    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)
    async with AsyncRecorder(config, SyntheticBackend(), on_clip_closed=hook, service=service) as recorder:
        for _ in range(5):
            await recorder.step()
    assert heard == ["rl-video-step-0"]
    check_clip(output_dir, recorder.summary().clips[0])


@pytest.mark.parametrize("policy", DropPolicy)
async def test_an_embedded_service_records_like_one_of_its_own(output_dir: Path, policy: DropPolicy) -> None:
    config = RecorderConfig(
        output_dir=output_dir, video_length=40, video_interval=60, queue_depth=8, drop_policy=policy, block_timeout_s=30
    )
    backend = SyntheticBackend(snapshot=True, render_delay_s=0.002)
    async with AsyncRecorder(config, backend, service="embedded") as recorder:
        assert not services()
        for _ in range(100):
            await recorder.step()
    for clip in recorder.summary().clips:
        assert clip.frames.requested == 40
        if policy is DropPolicy.BLOCK:
            assert clip.frames.encoded == 40
        check_clip(output_dir, clip)


def test_an_unknown_place_for_the_service_is_refused(output_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="service"):
        AsyncRecorder(RecorderConfig(output_dir=output_dir), SyntheticBackend(), service="elsewhere")


def test_statistics_may_be_asked_for_in_a_signal_handler(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=0, step_trigger=lambda step: step == 0)
    balanced: list[bool] = []

    def ask(*_: Any) -> None:
        balanced.append(is_balanced(recorder.statistics().frames))

    before = signal.signal(signal.SIGALRM, ask)
    try:
        with Recorder(config, SyntheticBackend(width=64, height=48)) as recorder:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for _ in range(2000):
                recorder.step()
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert balanced
    assert all(balanced)


def test_flush_and_close_beside_a_thread_that_steps_lose_nothing(output_dir: Path) -> None:
    from stepreel import RecorderClosedError

    config = RecorderConfig(output_dir=output_dir, video_length=0, step_trigger=lambda step: step == 0)
    recorder = Recorder(config, SyntheticBackend())
    recorder.__enter__()
    steps = 0
    failures: list[BaseException] = []

    def train() -> None:
        nonlocal steps
        try:
            while True:
                recorder.step()
                steps += 1
        except RecorderClosedError:
            pass
        except BaseException as exc:  # noqa: BLE001 - shown below.
            failures.append(exc)

    thread = threading.Thread(target=train)
    thread.start()
    poll_until(lambda: steps > 20)
    assert recorder.flush(timeout_s=30)
    recorder.close()
    thread.join()
    assert not failures
    (clip,) = recorder.summary().clips
    assert clip.frames.requested == steps
    assert is_balanced(clip.frames)
    with pytest.raises(RecorderClosedError):
        recorder.flush()


def test_a_clip_not_to_be_kept_while_its_segment_is_repaired_ends_nothing(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir,
        worker_priority=WorkerPriority.NORMAL,
        video_length=40,
        video_interval=40,
        gop_s=0.2,
        keep=lambda episode: episode.number != 0,
    )
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.005)) as recorder:
        for _ in range(40):
            recorder.step()
        poll_until(lambda: recorder.statistics().frames.encoded >= 10)
        worker_of().kill()
        recorder.end_episode()
        for _ in range(40):
            recorder.step()
        recorder.end_episode()
    assert [clip.name for clip in recorder.summary().clips] == ["rl-video-step-40"]
    assert recorder.statistics().clips_discarded == 1
    check_clip(output_dir, recorder.summary().clips[0])
    assert sorted(path.name for path in output_dir.glob("rl-video*")) == [
        "rl-video-step-40.json",
        "rl-video-step-40.mp4",
    ]


def test_no_clip_is_deleted_before_its_hook_was_called_and_as_many_stay_as_were_asked_for(output_dir: Path) -> None:
    missing: list[str] = []

    def hook(clip: Clip) -> None:
        time.sleep(0.02)
        missing.extend(clip.name for path in clip.paths if not path.exists())

    config = RecorderConfig(
        output_dir=output_dir, video_length=2, video_interval=2, keep_last_n_clips=2, keep=lambda episode: True
    )
    with Recorder(config, SyntheticBackend(), on_clip_closed=hook) as recorder:
        for _ in range(16):
            recorder.step()
            recorder.end_episode()
    assert not missing
    assert len(list(output_dir.glob("*.mp4"))) == 2


def test_importing_the_service_loads_neither_numpy_nor_ffmpeg() -> None:
    script = (
        "import sys, stepreel.service.__main__; print(*({'av', 'numpy', 'structlog', 'gymnasium'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
