"""Clocks that jump, and systems that sleep."""

from __future__ import annotations

import os
import signal
import time

from .. import evidence
from ..evidence import require
from ..harness import Try
from ..matrix import row
from .workers import ANSWER_S


@row("The clock is set back or forth in the middle of a clip: no duration is negative, nothing is lost.")
def clock_set_back(one: Try) -> int:
    by_s = one.random.choice([3600.0, 86400.0 * 365, -3600.0])
    step_of_change = one.random.randint(1, 100)
    training = one.start("clock_set_back", steps=120, step_of_change=step_of_change, by_s=by_s)
    training.end_well()
    one.nothing_runs()
    clips = evidence.check_done(one.folder)  # Looks at each segment's duration.
    summary = one.accounts(training, clips, steps=120)
    require(summary["shortest_s"] >= 0.0, f"a duration of {summary['shortest_s']} s")
    require(not summary["dropped"] and not summary["restarts"], f"something was lost: {summary}")
    one.recover_nothing()
    return 0


@row("Everything is stopped for longer than the deadline of a hang, and goes on: nobody is ended, nothing lost.")
def system_suspended(one: Try) -> int:
    backend = {"snapshot": True, "render_delay_s": 0.01}
    config = {"fps": 30, "video_length": 60, "video_interval": 60}
    training = one.start(
        config=config, backend=backend, deadlines={"answer_s": ANSWER_S}, patches={"link._LOOK_S": 0.4}, steps=60
    )
    training.wait_open()
    training.wait_steps(one.random.randint(1, 55))
    # Ctrl-Z stops the training alone, a suspended system everything.
    everything = [training.pid, training.service(), training.worker()]
    stopped = one.random.choice([everything[:1], everything, everything[::-1]])
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.2 * ANSWER_S)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    training.end_well()
    one.nothing_runs()
    clips = evidence.check_done(one.folder)
    summary = one.accounts(training, clips, steps=60)
    require(not summary["restarts"], f"{summary['restarts']} workers were taken to hang")
    require(not summary["dropped"], f"frames were dropped: {summary['dropped']}")
    one.recover_nothing()
    return 0
