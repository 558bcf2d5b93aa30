"""Workers that hang, crash, or can't draw."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from .. import evidence
from ..evidence import captured, dropped_in, require, shown
from ..harness import Training, Try
from ..matrix import row

ANSWER_S = 4.0
"""A deadline that a worker's start keeps on a busy machine; the real one is minutes."""
_CONFIG: dict[str, Any] = {"fps": 30, "video_length": 40, "video_interval": 40, "gop_s": 0.2}


def end(one: Try, training: Training, causes: set[str], *, steps: int | None = None) -> dict[str, Any]:
    training.end_well()
    one.nothing_runs()
    clips = evidence.check_done(one.folder)
    summary = one.accounts(training, clips, steps=steps)
    require(set(summary["dropped"]) <= causes, f"dropped for other causes: {summary['dropped']}")
    one.recover_nothing()
    return summary


@row("A worker that hangs is ended and replaced; at most a second is lost, and of snapshots nothing after `recover`.")
def worker_hangs(one: Try) -> int:
    # The deadline itself is minutes, because a first frame may compile kernels.
    backend = {"snapshot": True, "render_delay_s": 0.005}
    training = one.start(config=_CONFIG, backend=backend, deadlines={"answer_s": ANSWER_S}, steps=120)
    training.wait_open()
    training.wait_steps(one.random.randint(1, 80))
    os.kill(training.worker(), signal.SIGSTOP)
    summary = end(one, training, {"worker_lost"}, steps=120)
    one.nothing_held(training)
    require(summary["restarts"] == 1, f"{summary['restarts']} workers were replaced")
    loss = dropped_in(summary)
    require(loss <= 30, f"{loss} frames lost")
    one.recover_draws_the_rest()
    return loss


@row("A worker that hangs while it opens a renderer is noticed by a deadline, ended and replaced; nothing is lost.")
def worker_hangs_in_opening(one: Try) -> int:
    training = one.start("broken_renderer", fault="hangs_once", steps=80, deadlines={"answer_s": ANSWER_S})
    summary = end(one, training, set(), steps=80)
    require(summary["restarts"] == 1, f"{summary['restarts']} workers were replaced")
    return 0


@row(
    "A worker that hangs while it closes a segment is noticed by a deadline, ended and replaced; at most a second lost."
)
def worker_hangs_in_closing(one: Try) -> int:
    ambush = {"role": "worker", "act": "hang", "event": "os.rename", "operation": one.random.randint(1, 4)}
    backend = {"snapshot": one.random.random() < 0.5}
    training = one.start(ambush=ambush, config=_CONFIG, backend=backend, deadlines={"answer_s": ANSWER_S}, steps=40 * 5)
    summary = end(one, training, {"worker_lost"}, steps=40 * 5)
    one.nothing_held(training)
    fired = one.scratch / "fired"
    one.notes.append(fired.read_text() if fired.exists() else "the moment never came")
    require(summary["restarts"] == 1, f"{summary['restarts']} workers were replaced")
    loss = dropped_in(summary)
    require(loss <= 30, f"{loss} frames lost")
    return loss


@row("A frame that crashes its worker is tried twice and then dropped; the clip goes on.")
def worker_crashes_on_one_frame(one: Try) -> int:
    fatal = one.random.randint(0, 79)
    training = one.start(config=_CONFIG, backend={"snapshot": True, "fatal_steps": [fatal]}, steps=80)
    summary = end(one, training, {"worker_lost"}, steps=80)
    one.nothing_held(training)
    require(summary["restarts"] == 2, f"{summary['restarts']} workers lost over one frame")
    loss = dropped_in(summary)
    require(1 <= loss <= 14, f"{loss} frames lost over one")
    return loss


@row("A clip that crashes every worker is set aside after three; the next one is recorded. Never a restart loop.")
def worker_crashes_on_every_frame(one: Try) -> int:
    fatal = list(range(one.random.randint(0, 20), 40))
    training = one.start(config=_CONFIG, backend={"snapshot": True, "fatal_steps": fatal}, steps=80)
    summary = end(one, training, {"worker_lost"}, steps=80)
    one.nothing_held(training)
    require(summary["restarts"] <= 2 * len(fatal) and summary["restarts"] <= 6, f"{summary['restarts']} workers lost")
    # The next clip's first frames may lie in the segment that the last crash left open.
    after = evidence.look(one.folder)[-1]
    require(len(after.steps) >= 40 - 14, f"of the next clip {len(after.steps)} of 40 frames are there: {after.dropped}")
    return dropped_in(summary)


@row("A renderer that raises costs the frames that it can't draw, as render_failed, and no more.")
def renderer_raises(one: Try) -> int:
    failing = sorted(one.random.sample(range(80), one.random.randint(1, 40)))
    training = one.start(config=_CONFIG, backend={"snapshot": True, "failing_steps": failing}, steps=80)
    summary = end(one, training, {"render_failed"}, steps=80)
    one.nothing_held(training)
    require(summary["dropped"] == {"render_failed": len(failing)}, f"dropped {summary['dropped']}, not {len(failing)}")
    require(summary["restarts"] == 0, f"{summary['restarts']} workers lost")
    _kept(one, len(failing))
    return len(failing)


@row("A renderer that does not open (no GL): frames are render_failed, snapshots kept, and rendered later.", tries=1)
def renderer_does_not_open(one: Try) -> int:
    training = one.start("broken_renderer", fault="does_not_open", steps=40)
    summary = end(one, training, {"render_failed"}, steps=40)
    require(summary["restarts"] == 0, f"{summary['restarts']} workers lost")
    require(summary["dropped"] == {"render_failed": 40}, f"dropped {summary['dropped']}")
    one.render()
    shown = sum(len(clip.steps) for clip in evidence.look(one.folder))
    require(shown == 40, f"of 40 frames {shown} were rendered later")
    return 0


@row("Killed while snapshots are kept for later: render draws all, or where everything was killed, but a last second.")
def killed_before_rendering(one: Try) -> int:
    config = {**_CONFIG, "render": "later"}
    training = one.start(config=config, backend={"snapshot": True}, steps=10_000)
    training.wait_open()
    training.wait_steps(one.random.randint(30, 400))
    is_everything = one.random.random() < 0.5
    if is_everything:
        training.kill_everything()
    else:
        training.send(signal.SIGKILL)
    killed_ns = time.monotonic_ns()
    training.wait()
    one.nothing_runs()
    if is_everything:
        one.recover("--no-draw")
    one.render()
    lost = captured(config, training.steps) - shown(evidence.look(one.folder))
    require(is_everything or not lost, f"{len(lost)} of {training.steps} snapshots are gone")
    require(not lost or killed_ns - training.times.of(min(lost)) < 1e9, f"{len(lost)} snapshots are gone")
    one.notes.append("everything" if is_everything else "training")
    return len(lost)


@row(
    "A GL context that is lost in mid-clip costs the rest of that clip, as render_failed; the next clip has a new one.",
    tries=1,
)
def context_lost(one: Try) -> int:
    training = one.start("broken_renderer", fault="context_lost", steps=80)
    summary = end(one, training, {"render_failed"}, steps=80)
    require(summary["restarts"] == 0, f"{summary['restarts']} workers lost")
    lost = {clip.name: sorted(clip.manifest["frames"]["missing_steps"]) for clip in evidence.look(one.folder)}
    expected = {0: [[5, 19]], 20: [[25, 39]], 40: [], 60: []}
    require(lost == {f"rl-video-step-{step}": spans for step, spans in expected.items()}, f"missing: {lost}")
    _kept(one, 30)
    return 30


@row("A renderer that returns no picture costs that frame, as render_failed; the others are recorded.", tries=1)
def renderer_returns_nonsense(one: Try) -> int:
    lost = {}
    for fault in ("nothing", "floats", "no_width", "exits"):
        training = one.start("broken_renderer", fault=fault, steps=40)
        training.end_well()
        one.nothing_runs()
        lost[fault] = training.summary()["dropped"]
    evidence.check_done(one.folder)
    wrong = {fault: dropped for fault, dropped in lost.items() if dropped != {"render_failed": 10}}
    require(not wrong, f"not 10 frames dropped as render_failed: {wrong}")
    return 10


@row(
    "A Newton state that is not a number costs those frames, as render_failed; training and later clips go on.",
    tries=1,
    slow=True,
)
def newton_state_is_nan(one: Try) -> int:
    summary = _newton(one, "nan")
    require(summary["dropped"] == {"render_failed": 5}, f"dropped {summary['dropped']}, not 5 as render_failed")
    require(summary["encoded"] == 25, f"encoded {summary['encoded']} of the other 25")
    _kept(one, 5)
    return 5


@row(
    "A Newton state with another number of bodies ends its clip, as failed; training and later clips go on.",
    tries=1,
    slow=True,
)
def newton_body_count_changes(one: Try) -> int:
    summary = _newton(one, "body_count")
    require(summary["dropped"] == {"capture_failed": 1}, f"dropped {summary['dropped']}")
    states = dict(zip(summary["clips"], summary["states"], strict=True))
    expected = {"rl-video-step-0": "complete", "rl-video-step-10": "failed", "rl-video-step-20": "complete"}
    require(states == expected, f"clips: {states}")
    return 1


@row("Without GL, Newton simulations are drawn by the ray tracer, and nothing is lost.", tries=1, slow=True)
def newton_without_gl(one: Try) -> int:
    variables = {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent", "LIBGL_DRIVERS_PATH": "/nonexistent"}
    summary = _newton(one, "none", variables=variables)
    require(summary["encoded"] == 30 and not summary["dropped"], f"not everything was drawn: {summary}")
    return 0


def _kept(one: Try, count: int) -> None:
    """The snapshots of so many frames that could not be drawn are kept, to be drawn later."""
    manifests = [json.loads(path.read_bytes()) for path in evidence.manifests(one.folder)]
    kept = sum(manifest["snapshots"]["frames"] for manifest in manifests if manifest.get("snapshots"))
    require(kept == count, f"of {count} snapshots {kept} are kept")


def _newton(one: Try, fault: str, *, variables: dict[str, str] | None = None) -> dict[str, Any]:
    """Record 30 steps in clips of 10, the state of steps 12 to 16 at fault; return what the training told."""
    training = one.start("newton_simulation", variables=variables, fault=fault, step_of_fault=12, steps=30)
    training.end_well(300.0)
    one.nothing_runs(5.0)
    summary = training.summary()
    require(summary["steps"] == 30, f"not all steps were taken: {summary}")
    require(summary["restarts"] == 0, f"{summary['restarts']} workers lost")
    one.notes.append(f"drawn by {_renderer(one)}")
    return summary


def _renderer(one: Try) -> str:
    lines = [json.loads(line) for line in (one.folder / "session.jsonl").read_text().splitlines()]
    return next((str(line["renderer"]) for line in lines if line["event"] == "renderer.opened"), "nothing")
