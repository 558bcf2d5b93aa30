"""Frames of the wrong kind."""

from __future__ import annotations

from .. import evidence
from ..evidence import require
from ..harness import Try
from ..matrix import row


@row("A frame is refused with a reason, as capture_failed, or recorded as it was at the call; a new size, a new file.")
def odd_frames(one: Try) -> int:
    training = one.start("odd_frames", seed=one.seed, steps=60)
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    (clip,) = evidence.check_done(one.folder)
    summary = one.accounts(training, [clip], steps=60)
    bad = {int(step): kind for step, kind in summary["bad"].items()}
    require(clip.steps == set(summary["good"]), f"not seen: {set(summary['good']) - clip.steps}, {bad}")
    require(set(summary["dropped"]) <= {"capture_failed"}, f"dropped for other causes: {summary['dropped']}")
    require(summary["dropped"].get("capture_failed", 0) == len(bad), f"{summary['dropped']} for {len(bad)} bad frames")
    one.recover_nothing()
    return len(bad)
