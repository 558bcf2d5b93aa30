"""Several recorders, several threads, several closings."""

from __future__ import annotations

from .. import evidence
from ..evidence import ClipEvidence, dropped_in, require
from ..harness import Training, Try
from ..matrix import row


def _end(one: Try, training: Training) -> list[ClipEvidence]:
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    clips = evidence.check_done(one.folder)
    one.recover_nothing()
    return clips


@row("Two recorders in one process and one folder record side by side.", tries=3)
def two_recorders(one: Try) -> int:
    training = one.start("two_recorders", steps=60)
    clips = _end(one, training)
    require(sum(len(clip.steps) for clip in clips) == 120, f"not all was recorded: {[clip.name for clip in clips]}")
    require(all(not told["dropped"] for told in training.diary.events("summary")), "frames were dropped")
    return 0


@row("A recorder that is used in a thread records as everywhere.", tries=3)
def recorder_in_a_thread(one: Try) -> int:
    training = one.start("in_a_thread", steps=60)
    clips = _end(one, training)
    one.accounts(training, clips, steps=60)
    return 0


def _closed(one: Try, training: Training) -> int:
    clips = _end(one, training)
    summary = one.accounts(training, clips)
    require(not summary["stuck"], f"{summary['stuck']} threads are stuck in close")
    typed = ("RecorderClosedError", "RecordingError", "CaptureError")  # The second: in the middle of a capture.
    untyped = [error for error in summary["errors"] if error not in typed]
    require(not untyped, f"errors: {summary['errors']}")
    return dropped_in(summary)


@row("Closed from another thread while training goes on: works, and the next step raises RecorderClosedError.")
def closed_by_another_thread(one: Try) -> int:
    delay_s = one.random.uniform(0.0, 0.2)
    return _closed(one, one.start("closed_elsewhere", steps=100_000, delay_s=delay_s, threads=1))


@row("Closed by several threads at once: each returns or raises a typed error, and everything is finished.")
def closed_by_several_threads(one: Try) -> int:
    delay_s = one.random.uniform(0.0, 0.2)
    return _closed(one, one.start("closed_elsewhere", steps=100_000, delay_s=delay_s, threads=3))


@row("Closed in the middle of a capture, and again: works or raises a typed error.")
def closed_during_a_capture(one: Try) -> int:
    return _closed(one, one.start("closed_during_capture", steps=40, step_of_close=one.random.randint(0, 39)))
