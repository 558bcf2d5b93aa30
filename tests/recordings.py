"""Looking at what a recorder wrote: real files, decoded back."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import psutil

from stepreel.backends.synthetic import read_step
from stepreel.clip import Clip, FrameCounts


def shown_steps(path: Path) -> list[int]:
    """Return the step that each picture of a segment shows, read from its pixels."""
    with av.open(str(path)) as container:
        return [read_step(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def timed_steps(path: Path, fps: float) -> list[tuple[float, int]]:
    """Return place on the timeline, counted in frames, and step shown, of each picture of a segment."""
    with av.open(str(path)) as container:
        return [
            (float(frame.time or 0.0) * fps, read_step(frame.to_ndarray(format="rgb24")))
            for frame in container.decode(video=0)
        ]


def manifest_of(output_dir: Path, clip: Clip) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output_dir / f"{clip.name}.json").read_text())
    return found


def is_balanced(counts: FrameCounts) -> bool:
    return counts.requested == counts.encoded + sum(counts.dropped.values()) + counts.pending


def expand(ranges: tuple[tuple[int, int], ...], stride: int) -> list[int]:
    """Return the steps in ranges such as a clip's `missing_steps`."""
    return [step for first, last in ranges for step in range(first, last + 1, stride)]


def check_clip(output_dir: Path, clip: Clip) -> None:
    """Hold a closed clip against its files: each picture is of its time, and every other step is listed."""
    counts = clip.frames
    assert counts.pending == 0
    assert is_balanced(counts)
    shown: list[int] = []
    for segment in clip.segments:
        frames = timed_steps(output_dir / segment.file, clip.fps)
        is_first = segment.file in (f"{clip.name}.mp4", f"{clip.name}.000.mp4")
        base_step = clip.start_step if is_first else segment.first_step
        for pts, step in frames:
            assert step == base_step + round(pts) * clip.frame_stride
            assert abs(pts - round(pts)) < 1e-6
        steps = [step for _, step in frames]
        assert (segment.frames, segment.first_step, segment.last_step) == (len(steps), steps[0], steps[-1])
        shown += steps
    missing = expand(clip.missing_steps, clip.frame_stride)
    assert shown == sorted(set(shown))
    assert len(shown) == counts.encoded
    assert len(missing) == counts.dropped_total
    assert sorted(shown + missing) == sorted(set(shown) | set(missing))
    by_cause = {cause: expand(spans, clip.frame_stride) for cause, spans in clip.missing_by_cause.items()}
    assert {cause: len(steps) for cause, steps in by_cause.items()} == counts.dropped
    assert sorted(step for steps in by_cause.values() for step in steps) == missing
    manifest = manifest_of(output_dir, clip)
    assert manifest["state"] == clip.state
    assert manifest["frames"]["requested"] == counts.requested
    assert manifest["frames"]["encoded"] == counts.encoded
    listed = {cause.value: [list(span) for span in spans] for cause, spans in clip.missing_by_cause.items()}
    assert manifest["frames"].get("missing_by_cause") == (listed if len(listed) > 1 else None)
    assert [segment["file"] for segment in manifest["segments"]] == [segment.file for segment in clip.segments]
    assert not list(output_dir.glob("*.part"))


def poll_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for something in another process that sends no event."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        select.select([], [], [], 0.005)


def service_of(training: psutil.Process | None = None) -> psutil.Process:
    """Return the recording service of a training process, by default this one."""
    (service,) = _running("stepreel.service", (training or psutil.Process()).children())
    return service


def workers_of(training: psutil.Process | None = None) -> list[psutil.Process]:
    """Return the workers of a training process's recording services."""
    services = _running("stepreel.service", (training or psutil.Process()).children())
    return [worker for service in services for worker in _running("stepreel.encoders.worker", service.children())]


def worker_of(training: psutil.Process | None = None) -> psutil.Process:
    """Return the one worker of a training process."""
    (worker,) = workers_of(training)
    return worker


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended; its parent may not have taken its status yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_everything(training: psutil.Process) -> None:
    """Kill a training process, its recording services and their workers, as the end of a container does."""
    processes = [training, *training.children(recursive=True)]
    for process in processes:
        process.suspend()
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)


def _running(module: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if module in process.cmdline() and not has_ended(process):
                found.append(process)
    return found
