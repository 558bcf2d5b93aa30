"""SIGKILL, at any moment."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from .. import evidence
from ..evidence import dropped_in, require
from ..harness import Training, Try
from ..matrix import row

FPS = 30
_IN_HAND = 2
"""Frames that a worker is given ahead, which are lost with it only if they can't be drawn again: never, here."""


def settings(one: Try) -> dict[str, Any]:
    """Either many clips of short segments, so that something is always being closed, or one long segment."""
    short = {"video_length": 25, "video_interval": 25, "segment_s": 0.1, "worker_count": one.random.choice([1, 2])}
    long = {"video_length": 100_000, "video_interval": 0, "gop_s": one.random.choice([0.2, 1.0])}
    return {"fps": FPS, **one.random.choice([short, long])}


def lost_frames(one: Try, training: Training, config: dict[str, Any]) -> int:
    """Return the frames that were reported encoded and are in no file; at most one second of an open segment."""
    seen = training.progress.get("encoded")
    clips = evidence.check_alive(one.folder)
    shown = sum(len(clip.steps) for clip in clips)
    lost = max(0, seen - shown)
    require(lost <= FPS, f"{lost} frames that were encoded are gone, more than one second")
    require(
        lost <= FPS * config.get("gop_s", 1.0) + 1, f"{lost} frames are gone, more than gop_s={config.get('gop_s')}"
    )
    return lost


def start(one: Try, config: dict[str, Any], **options: Any) -> Training:
    """Start a training, and wait for a moment at random in it."""
    training = one.start(config=config, **options)
    training.wait_open()
    time.sleep(one.random.uniform(0.0, 0.6))
    return training


def worker_finishes(one: Try, training: Training, config: dict[str, Any]) -> int:
    """The training is gone, and all that its worker had encoded is in closed files."""
    one.nothing_runs()
    clips = evidence.check_alive(one.folder)
    require(not any(clip.open for clip in clips), "the worker left a segment open")
    loss = lost_frames(one, training, config)
    require(loss == 0, f"{loss} frames that were encoded are gone, though the worker lived on")
    one.recover()
    return loss


@row("Kill the training: what the worker had is in closed files, and the worker is gone within two seconds.")
def kill_training(one: Try) -> int:
    config = settings(one)
    training = start(one, config)
    training.send(signal.SIGKILL)
    training.wait()
    return worker_finishes(one, training, config)


@row("Kill the worker: another one goes on; what was lost is counted as worker_lost, at most a second of video.")
def kill_worker(one: Try) -> int:
    training = start(one, settings(one), steps=300)
    os.kill(training.worker(), signal.SIGKILL)
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    clips = evidence.check_done(one.folder)
    summary = one.accounts(training, clips, steps=300)
    require(set(summary["dropped"]) <= {"worker_lost"}, f"dropped for other causes: {summary['dropped']}")
    loss = dropped_in(summary)
    require(loss <= FPS + _IN_HAND, f"{loss} frames lost with one worker")
    return loss


@row("Kill everything at once: closed segments are whole, and at most a second of the open one is lost.")
def kill_both(one: Try) -> int:
    config = settings(one)
    training = start(one, config)
    victims = [training.pid, *training.workers()]
    one.random.shuffle(victims)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    training.wait()
    one.nothing_runs()
    loss = lost_frames(one, training, config)
    one.recover()
    return loss


@row("Killed exactly when a file is made, written, closed, renamed or replaced: nothing that was closed is damaged.")
def kill_at_a_file_operation(one: Try) -> int:
    role = one.random.choice(["training", "worker"])
    act = one.random.choice(["kill", "kill_both"])
    ambush = {"role": role, "act": act, "operation": one.random.randint(4 if role == "training" else 1, 90)}
    config = {"fps": FPS, "video_length": 25, "video_interval": 25, "segment_s": 0.1}
    training = one.start(ambush=ambush, config=config, steps=200)
    status = training.wait()
    one.nothing_runs()
    fired = one.scratch / "fired"
    one.notes.append(fired.read_text() if fired.exists() else "the moment never came")
    if status == 0:
        clips = evidence.check_done(one.folder)
        one.accounts(training, clips, steps=200)
        return dropped_in(training.summary())
    if not training.progress.get("is_open") and "WorkerError" in training.output:
        status = -signal.SIGKILL  # A worker that dies before it is ready: opening the recorder says so.
    require(status == -signal.SIGKILL, f"the training ended with status {status}: {training.output[-2000:]}")
    loss = lost_frames(one, training, config) if one.folder.exists() else 0
    one.recover()
    return loss
