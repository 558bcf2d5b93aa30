"""The ways in which a training program ends."""

from __future__ import annotations

import signal
import time
from typing import Any

from .. import evidence
from ..evidence import captured, dropped_in, require, shown
from ..harness import Training, Try
from ..matrix import row
from .kills import ENDED, service_finishes, start

CONFIG: dict[str, Any] = {"fps": 30, "video_length": 25, "video_interval": 25, "segment_s": 0.3}


def everything_finished(one: Try, training: Training, *, status: int) -> int:
    ended = training.wait()
    require(training.progress.get("is_open"), f"the recorder never opened: {training.output[-3000:]}")
    require(ended == status, f"the training ended with status {ended}, not {status}: {training.output[-3000:]}")
    one.nothing_runs()
    one.nothing_held(training)
    clips = evidence.check_done(one.folder)
    summary = one.accounts(training, clips)
    # An interruption in the middle of a capture costs that one.
    interrupted = 1 if status == -signal.SIGINT else 0
    lost = dict(summary["dropped"])
    require(lost.pop("capture_failed", 0) <= interrupted and not lost, f"frames were dropped: {summary['dropped']}")
    taken = training.progress.get("steps")
    require(summary["steps"] in (taken, taken + 1), f"{taken} steps taken, {summary['steps']} counted")
    one.recover_nothing()
    return dropped_in(summary)


@row("SIGTERM, where the program doesn't handle it, is like a kill of the training: nothing captured is lost.")
def sigterm(one: Try) -> int:
    training = start(one, CONFIG)
    training.send(signal.SIGTERM)
    require(training.wait() == -signal.SIGTERM, "the training outlived SIGTERM")
    service_finishes(one, training, CONFIG)
    return 0


@row("One Ctrl-C: the training stops, and everything captured until then is finished.")
def sigint_once(one: Try) -> int:
    training = one.start(config=CONFIG)
    training.wait_open()
    training.wait_steps(1)  # Inside of its `with` block.
    time.sleep(one.random.uniform(0.0, 0.5))
    training.send(signal.SIGINT)
    return everything_finished(one, training, status=-signal.SIGINT)


@row("Ctrl-C at any instruction, also inside of a capture: closing ends, and costs that one frame at most.")
def sigint_at_any_instruction(one: Try) -> int:
    training = one.start("interrupted", delays_s=[one.random.uniform(0.001, 0.02) for _ in range(3)])
    training.end_well()
    one.nothing_runs()
    clips = evidence.check_done(one.folder)
    lost = in_files = 0
    for summary in training.diary.events("summary"):
        causes = set(summary["dropped"])
        # The loop does not wait for the worker: what the queue has no room for is dropped by policy.
        require(causes <= {"capture_failed", "queue_full", "closed"}, f"dropped for other causes: {summary['dropped']}")
        interrupted = sum(number for cause, number in summary["dropped"].items() if cause != "queue_full")
        require(interrupted <= 1, f"one interruption cost more than a frame: {summary['dropped']}")
        require(summary["requested"] == summary["encoded"] + dropped_in(summary), f"the accounting is off: {summary}")
        lost, in_files = max(lost, interrupted), in_files + summary["encoded"]
    require(in_files == sum(len(clip.steps) for clip in clips), f"{in_files} called encoded, not as many in the files")
    one.nothing_held(training)
    return lost


@row("Ctrl-C at a chosen instruction, of a step or of closing: closing ends, and every step is accounted for.")
def interrupted_at_an_instruction(one: Try) -> int:
    closing = one.random.random() < 0.3
    place = one.random.randrange(150 if closing else 2500)
    one.notes.append(f"at place {place} of {'closing' if closing else 'taking steps'}")
    training = one.start("interrupted_at", place=place, closing=closing)
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    summary = one.accounts(training, evidence.check_done(one.folder))
    causes = {"queue_full", "closed", "capture_failed"}
    require(set(summary["dropped"]) <= causes, f"dropped for other causes: {summary['dropped']}")
    one.recover_nothing()
    return sum(count for cause, count in dict(summary["dropped"]).items() if cause != "queue_full")


@row("A second Ctrl-C while clips are finished: what no worker has begun is dropped as closed, files are whole.")
def sigint_twice(one: Try) -> int:
    backend = {"snapshot": True, "render_delay_s": 0.02}
    training = one.start(config={**CONFIG, "video_length": 100, "video_interval": 100}, backend=backend)
    training.wait_open()
    training.wait_steps(60)
    time.sleep(one.random.uniform(0.0, 0.3))
    training.send(signal.SIGINT)
    time.sleep(one.random.uniform(0.05, 0.4))
    training.send(signal.SIGINT)
    status = training.wait(20.0)
    require(status != 0, "the interruption was swallowed")
    one.nothing_runs()
    one.nothing_held(training)
    clips = evidence.check_done(one.folder)
    summary = one.accounts(training, clips)
    require(set(summary["dropped"]) <= {"closed", "capture_failed"}, f"dropped for other causes: {summary['dropped']}")
    one.recover_nothing()
    return dropped_in(summary)


@row("An exception in the training loop passes on, and everything captured until then is finished.")
def exception_in_the_loop(one: Try) -> int:
    training = one.start(config=CONFIG, ending="exception", ending_step=one.random.randint(0, 150))
    return everything_finished(one, training, status=1)


@row("sys.exit in the training loop: everything captured until then is finished.")
def sys_exit(one: Try) -> int:
    training = one.start(config=CONFIG, ending="sys_exit", ending_step=one.random.randint(0, 150))
    return everything_finished(one, training, status=7)


@row("os._exit is like a kill of the training: nothing captured is lost, and the clip says that it was cut short.")
def os_exit(one: Try) -> int:
    training = one.start(config=CONFIG, ending="os_exit", ending_step=one.random.randint(1, 150))
    require(training.wait() == 8, "os._exit was not the end")
    service_finishes(one, training, CONFIG, ended=ENDED)
    return 0


@row("A program that ends without closing its recorder ends at once, and nothing captured is lost.")
def ends_without_close(one: Try) -> int:
    # A recorder in a variable of a function is dropped, and so closed, with the function; one of a module is not.
    ending = one.random.choice(["never_closed", "never_dropped"])
    one.notes.append(ending)
    training = one.start(config=CONFIG, ending=ending, ending_step=one.random.randint(1, 150))
    training.end_well(20.0)
    one.nothing_runs()
    clips = evidence.check_done(one.folder)
    lost = captured(CONFIG, training.steps) - shown(clips)
    require(not lost, f"{len(lost)} captured frames are lost: {sorted(lost)[:10]}")
    one.recover_nothing()
    return 0


@row("A recorder that is dropped without being closed while training goes on: its clip is finished, its service ends.")
def dropped_without_close(one: Try) -> int:
    step = one.random.randint(1, 250)
    training = one.start("dropped", steps=step)
    training.wait_until(lambda: training.diary.events("dropped"), "the recorder was dropped")
    training.wait_until(lambda: not training.services() and not training.workers(), "its processes ended")
    config = {"video_length": 100, "video_interval": 100}
    clips = evidence.check_done(one.folder)
    lost = captured(config, step) - shown(clips)
    require(not lost, f"{len(lost)} captured frames are lost: {sorted(lost)[:10]}")
    training.stop()
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    one.recover_nothing()
    return 0
