"""A user's own functions that raise whatever they like."""

from __future__ import annotations

from .. import evidence
from ..evidence import require
from ..harness import Try
from ..matrix import row

RUDENESSES = ("exits", "base_exception", "no_text")
_STEPS = 60


@row("Hooks, triggers, `keep` and log processors that raise anything: training and recording go on, closing ends.")
def callbacks_raise(one: Try) -> int:
    rudeness = one.random.choice(RUDENESSES)
    one.notes.append(rudeness)
    _record(one, "rude_callbacks", rudeness)
    return 0


@row("The same in AsyncRecorder, whose hooks may be coroutines, with the service in a process and in its event loop.")
def async_callbacks_raise(one: Try) -> int:
    rudeness, service = one.random.choice(RUDENESSES), one.random.choice(["process", "embedded"])
    one.notes.append(f"{rudeness}, {service}")
    _record(one, "rude_async_callbacks", rudeness, service=service)
    return 0


def _record(one: Try, program: str, rudeness: str, **options: str) -> None:
    training = one.start(program, rudeness=rudeness, steps=_STEPS, **options)
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    clips = [clip for clip in evidence.check_done(one.folder) if rudeness in clip.name]
    summary = training.summary()
    require(summary["steps"] == _STEPS, f"{rudeness}: {summary['steps']} steps taken, not {_STEPS}")
    require(not summary["dropped"], f"{rudeness}: dropped {summary['dropped']}")
    # The trigger opens a clip of 10 at every 20th step, where it does not raise, and the rule keeps what it can't tell.
    starts = sorted(clip.manifest["start_step"] for clip in clips)
    require(starts == [0, 20, 40], f"{rudeness}: clips begin at {starts}")
    one.recover_nothing()


@row("A camera function that raises anything costs those frames, as capture_failed; training and clips go on.", tries=1)
def camera_function_raises(one: Try) -> int:
    lost = 0
    for rudeness in RUDENESSES:
        training = one.start("rude_camera", rudeness=rudeness, steps=30)
        training.end_well(60.0)
        one.nothing_runs()
        one.nothing_held(training)
        summary = training.summary()
        require(summary["steps"] == 30, f"{rudeness}: {summary['steps']} steps taken, not 30")
        require(summary["dropped"] == {"capture_failed": 4}, f"{rudeness}: dropped {summary['dropped']}")
        lost = 4
    evidence.check_done(one.folder, every=0)
    return lost
