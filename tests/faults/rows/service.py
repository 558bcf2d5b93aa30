"""The recording service killed, frozen, and killed again."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from .. import evidence
from ..evidence import captured, dropped_in, require, shown
from ..harness import FINISHED_S, Training, Try
from ..matrix import row
from .kills import FPS

_STEPS = 700
_GOP_S = 0.2
MOST_LOST = round(_GOP_S * FPS) + 1
"""Frames of one fragment, and the one that is written late."""


def _start(one: Try, **options: Any) -> tuple[Training, dict[str, Any]]:
    """Start a training of many short clips or of one long one, with pixels or snapshots; wait for a random moment."""
    length = one.random.choice([50, 10_000])
    config = {"fps": FPS, "video_length": length, "video_interval": length, "gop_s": _GOP_S}
    backend = {"snapshot": one.random.random() < 0.5, "render_delay_s": one.random.choice([0.0, 0.001])}
    one.notes.append(f"clips of {length}, {'snapshots' if backend['snapshot'] else 'pixels'}")
    training = one.start(config=config, backend=backend, steps=_STEPS, **options)
    training.wait_open()
    training.wait_steps(one.random.randint(1, 250))
    return training, config


def _end(one: Try, training: Training, config: dict[str, Any], *, most_lost: int, restarts: int) -> int:
    """Training took its steps; what was lost is counted, and of snapshots `recover` draws it."""
    training.end_well(60.0)
    one.nothing_runs()
    one.nothing_held(training)
    clips = evidence.check_done(one.folder)
    summary = one.accounts(training, clips, steps=_STEPS)
    require(set(summary["dropped"]) <= {"worker_lost"}, f"dropped for other causes: {summary['dropped']}")
    loss = dropped_in(summary)
    require(loss <= most_lost, f"{loss} frames lost: {summary['dropped']}")
    require(len(shown(clips)) + loss == len(captured(config, _STEPS)), "a captured step is neither shown nor missing")
    told = len(_events(one, "service.restarted"))
    require(told == restarts, f"the log tells of {told} services that took over, not {restarts}")
    if any(clip.manifest.get("snapshots") for clip in clips):
        one.recover_draws_the_rest()
    else:
        one.recover_nothing()
    return loss


def _events(one: Try, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (one.folder / "session.jsonl").read_text().splitlines() if line]
    return [line for line in lines if line["event"] == event]


def _wait_for_another(training: Training, before: int) -> int:
    """Wait until another service runs, and return its process id."""
    training.wait_until(lambda: set(training.services()) - {before}, "another service was started")
    return next(iter(set(training.services()) - {before}))


@row("Kill the recording service: another one goes on from where it was; training goes on, nothing captured is lost.")
def kill_service(one: Try) -> int:
    training, config = _start(one)
    os.kill(training.service(), signal.SIGKILL)
    return _end(one, training, config, most_lost=0, restarts=1)


@row("Freeze the service for a while: training goes on, nothing captured is lost, nobody is replaced.")
def freeze_service(one: Try) -> int:
    training, config = _start(one)
    service, steps = training.service(), training.steps
    os.kill(service, signal.SIGSTOP)
    time.sleep(one.random.uniform(0.2, 0.8))
    went_on = training.steps - steps
    os.kill(service, signal.SIGCONT)
    require(went_on > 20, f"training took {went_on} steps meanwhile")
    return _end(one, training, config, most_lost=0, restarts=0)


@row("Freeze the service for good: it is replaced, training goes on, nothing captured is lost.")
def freeze_service_for_good(one: Try) -> int:
    # Seven looks of 0.5 s instead of 5 s, which a start on a busy machine must not take.
    training, config = _start(one, patches={"link._LOOK_S": 0.5})
    os.kill(training.service(), signal.SIGSTOP)
    return _end(one, training, config, most_lost=0, restarts=1)


@row("Kill the service three times: each time another one goes on, and nothing captured is lost.")
def kill_service_again_and_again(one: Try) -> int:
    training, config = _start(one)
    service = training.service()
    for _ in range(3):
        os.kill(service, signal.SIGKILL)
        service = _wait_for_another(training, service)
        time.sleep(one.random.uniform(0.0, 0.5))
    training.end_well(60.0)
    took_over = len(_events(one, "service.restarted"))
    require(1 <= took_over <= 3, f"{took_over} services took over")
    return _end(one, training, config, most_lost=0, restarts=took_over)


@row("Services that die as soon as they start: no restart loop; training goes on, and recover finishes what there is.")
def no_service_survives(one: Try) -> int:
    training, config = _start(one)
    killed: set[int] = set()
    quiet_s = time.monotonic() + 4.0
    while time.monotonic() < quiet_s and training.process.poll() is None:
        for pid in training.services():
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
                quiet_s = time.monotonic() + 4.0
        time.sleep(0.002)
    training.end_well()
    one.nothing_runs(FINISHED_S)
    require(2 <= len(killed) <= 6, f"{len(killed)} services were started")
    summary = training.summary()
    require(summary["steps"] == _STEPS, f"{summary['steps']} steps taken, not {_STEPS}")
    one.nothing_held(training)
    evidence.check_alive(one.folder)
    one.recover()
    one.notes.append(f"{len(killed)} services killed")
    return len(captured(config, _STEPS) - shown(evidence.look(one.folder)))


@row(
    "Kill service and worker together: both are replaced; lost is what was in an unfinished fragment, at most `gop_s`."
)
def kill_service_and_worker(one: Try) -> int:
    training, config = _start(one)
    one.kill_at_once([*training.services(), *training.workers()])
    return _end(one, training, config, most_lost=MOST_LOST, restarts=1)
