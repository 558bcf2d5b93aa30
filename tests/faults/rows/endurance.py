"""Very many clips, and very long ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .. import evidence
from ..evidence import require
from ..harness import Training, Try
from ..matrix import row

_NOISE_KIB = 3 * 1024
"""More than an allocator's noise, less than keeping one of these pictures for each clip would take."""
_MOST_MORE_OPEN = 8
"""Descriptors: files of one clip and of the next, not of a dozen that wait to be closed."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a process holds at one moment."""

    rss_kib: int
    descriptors: int
    threads: int


def sample(pid: int) -> Sample | None:
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        # Not the frame pool, which is shared and touched as far as it is needed.
        return Sample(
            rss_kib=int(status["RssAnon"].split()[0]),
            descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
            threads=int(status["Threads"]),
        )
    except (OSError, KeyError):
        return None


def watch(training: Training, every_s: float) -> dict[str, list[Sample]]:
    """Sample training, service and worker until the training ends."""
    found: dict[str, list[Sample]] = {"training": [], "service": [], "worker": []}
    training.wait_open()
    pids = {"training": training.pid, "service": training.service(), "worker": training.worker()}
    while training.process.poll() is None:
        for name, pid in pids.items():
            one = sample(pid)
            if one and one.rss_kib:
                found[name].append(one)
        time.sleep(every_s)
    return found


def check_flat(one: Try, found: dict[str, list[Sample]], indexed_kib: float) -> None:
    """The last quarter holds no more than the second: the first one is for whatever is kept once.

    `indexed_kib`: what the worker may keep besides, for the index of a file that is open.
    """
    for name, samples in found.items():
        quarter = len(samples) // 4
        require(quarter >= 3, f"only {len(samples)} samples of the {name}")
        # Without the very last ones, in which everything is taken down.
        early, late = samples[quarter : 2 * quarter], samples[-quarter:-2]
        growth = median(at.rss_kib for at in late) - median(at.rss_kib for at in early)
        one.notes.append(f"{name} {growth:+.0f} KiB")
        most_kib = _NOISE_KIB + (indexed_kib if name == "worker" else 0.0)
        require(growth < most_kib, f"the {name} grew by {growth:.0f} KiB in the second half")
        for what in ("descriptors", "threads"):
            more = median(getattr(at, what) for at in late) - median(getattr(at, what) for at in early)
            require(more <= 2, f"the {name} has {more:g} more {what} in the end")
        peak = max(at.descriptors for at in late) - median(at.descriptors for at in early)
        require(peak <= _MOST_MORE_OPEN, f"the {name} had {peak:g} more descriptors at one moment")


def _endure(
    one: Try,
    config: dict[str, Any],
    steps: int,
    *,
    every: int = 1,
    backend: dict[str, Any] | None = None,
    frame_nbytes: int = 0,
) -> int:
    """Record all of it; `frame_nbytes`: what a worker may keep in memory for each frame of an open segment."""
    settings = {"fps": 30, "drop_policy": "block", "block_timeout_s": 60.0, "queue_depth": 64, **config}
    training = one.start(config=settings, backend=backend, steps=steps, period_s=0.0, note_every=100)
    found = watch(training, every_s=0.1 if one.long and steps > 10_000 else 0.03)
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    check_flat(one, found, steps / 2 * frame_nbytes / 1024)
    clips = evidence.check_done(one.folder, every)
    summary = one.accounts(training, clips, steps=steps)
    require(not summary["dropped"], f"frames were dropped: {summary['dropped']}")
    return len(clips)


@row("A thousand clips in a row: memory, descriptors and threads of every process stay flat.", tries=1, slow=True)
def thousand_clips(one: Try) -> int:
    count = 1000 if one.long else 150
    clips = _endure(one, {"video_length": 2, "video_interval": 2}, 2 * count)
    require(clips == count, f"{clips} clips, not {count}")
    return 0


def _long_clip(one: Try, frame_nbytes: int, **more: Any) -> int:
    steps = 200_000 if one.long else 5_000
    config = {"video_length": steps, "video_interval": 0, "preset": "ultrafast", "gop_s": 10.0, **more}
    _endure(one, config, steps, every=97, backend={"width": 32, "height": 80}, frame_nbytes=frame_nbytes)
    return 0


@row("A clip of 200,000 frames in segments: memory, descriptors and threads stay flat.", tries=1, slow=True)
def long_clip_in_segments(one: Try) -> int:
    return _long_clip(one, 0, segment_s=60.0)


@row(
    "A clip of 200,000 frames in one file: all stay flat; the worker keeps the index, 100 bytes a frame.",
    tries=1,
    slow=True,
)
def long_clip_in_one_file(one: Try) -> int:
    return _long_clip(one, 100)
