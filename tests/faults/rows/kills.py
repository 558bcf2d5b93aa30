"""SIGKILL, at any moment, and other ends that nobody has time to answer."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Sequence
from typing import Any

from .. import evidence
from ..evidence import ClipEvidence, captured, dropped_in, require, shown
from ..harness import FINISHED_S, Training, Try
from ..matrix import row

FPS = 30
SPOOLED_S = 1.0
"""A snapshot that was captured so long ago is on disk."""
_KILLED = r"killed"
ENDED = r"killed|exited with status \d+"
"""A process that was waited for at once leaves no status that another one could read."""
_WAITING: dict[str, Any] = {"fps": FPS, "video_length": 60, "video_interval": 60}


def settings(one: Try) -> dict[str, Any]:
    """Either many clips of short segments, so that something is always being closed, or one long segment."""
    short = {"video_length": 25, "video_interval": 25, "segment_s": 0.1, "worker_count": one.random.choice([1, 2])}
    long = {"video_length": 100_000, "video_interval": 0, "gop_s": one.random.choice([0.2, 1.0])}
    return {"fps": FPS, **one.random.choice([short, long])}


def start(one: Try, config: dict[str, Any], **options: Any) -> Training:
    """Start a training, and wait for a moment at random in it."""
    training = one.start(config=config, **options)
    training.wait_open()
    time.sleep(one.random.uniform(0.0, 0.6))
    return training


def service_finishes(
    one: Try, training: Training, config: dict[str, Any], *, ended: str = _KILLED, every: int = 1
) -> list[ClipEvidence]:
    """The training is gone: its service draws and encodes all that was captured, says how it ended, and goes."""
    one.nothing_runs(FINISHED_S)
    clips = evidence.check_done(one.folder, every)
    lost = captured(config, training.steps) - shown(clips)
    require(not lost, f"{len(lost)} of {training.steps} captured frames are lost: {sorted(lost)[:10]}")
    _says_how_it_ended(one, training, clips, config["video_length"], ended)
    if every:
        one.recover_nothing()
    return clips


def _says_how_it_ended(one: Try, training: Training, clips: Sequence[ClipEvidence], length: int, ended: str) -> None:
    """Session and open clip tell the last step: one more than was written down, where it died in between."""
    at = f"({ended}) at step ({training.steps - 1}|{training.steps})" if training.steps else f"({ended}) at step 0"
    session = json.loads((one.folder / "session.json").read_bytes())
    one.notes.append(str(session.get("ended")))
    require(re.fullmatch(at, str(session.get("ended"))), f"the session says {session.get('ended')!r}, not {at!r}")
    require(session["ended_at"], "the session has no end")
    for clip in clips:
        said = clip.manifest.get("ended")
        is_whole = len(clip.steps) == length
        require(is_whole or said, f"{clip.name} does not say that it was cut short")
        require(said is None or said == session["ended"], f"{clip.name} says {said!r}, not {session['ended']!r}")


def lost_frames(one: Try, training: Training, config: dict[str, Any]) -> int:
    """Return the frames that were reported encoded and are in no file; at most one second of an open segment."""
    seen = training.progress.get("encoded")
    clips = evidence.check_alive(one.folder)
    lost = max(0, seen - sum(len(clip.steps) for clip in clips))
    gop_s = config.get("gop_s", 1.0)
    require(lost <= FPS * gop_s + 1, f"{lost} frames that were encoded are gone, more than gop_s={gop_s}")
    return lost


def lag_behind(one: Try, training: Training) -> int:
    """Wait until more than a clip was captured than is encoded; return how many frames wait."""
    least = one.random.randint(100, 200)
    progress = training.progress

    def waiting() -> int:
        return progress.get("steps") - progress.get("encoded")

    training.wait_until(
        lambda: progress.get("steps") >= least and waiting() > _WAITING["video_length"],
        "drawing lagged a clip behind",
        60.0,
    )
    one.notes.append(f"{waiting()} frames waited")
    return waiting()


@row("Kill the training: all that it has captured is drawn and encoded, and the clip says at which step it was killed.")
def kill_training(one: Try) -> int:
    config = settings(one)
    training = start(one, config)
    training.send(signal.SIGKILL)
    training.wait()
    service_finishes(one, training, config)
    return 0


@row("A training that dies while drawing lags a whole clip behind (killed, crashed, os._exit): no captured frame lost.")
def dies_with_snapshots_waiting(one: Try) -> int:
    ending = one.random.choice(["killed", "segmentation_fault", "os_exit"])
    one.notes.append(ending)
    backend = {"snapshot": True, "render_delay_s": 0.01}
    if ending == "killed":
        training = one.start(config=_WAITING, backend=backend)
        lag_behind(one, training)
        training.send(signal.SIGKILL)
    else:
        step = one.random.randint(130, 250)
        training = one.start(config=_WAITING, backend=backend, ending=ending, ending_step=step)
    training.wait()
    service_finishes(one, training, _WAITING, ended=ENDED if ending == "os_exit" else _KILLED)
    return 0


@row("Kill the training while pixels wait that no worker has encoded, a whole clip of them: no captured frame lost.")
def killed_with_pixels_waiting(one: Try) -> int:
    training = one.start(config=_WAITING)
    training.wait_open()
    training.wait_steps(one.random.randint(1, 60))
    worker = training.worker()
    os.kill(worker, signal.SIGSTOP)
    lag_behind(one, training)
    training.send(signal.SIGKILL)
    training.wait()
    os.kill(worker, signal.SIGCONT)
    service_finishes(one, training, _WAITING)
    return 0


@row(
    "Kill the training of Ant-v5 while drawing lags a whole clip behind: no captured frame lost.",
    slow=True,
)
def killed_with_ant_waiting(one: Try) -> int:
    return _killed_with_simulator(one, "ant")


@row(
    "Kill the training of a Newton simulation while drawing lags a whole clip behind: no captured frame lost.",
    tries=2,
    slow=True,
)
def killed_with_newton_waiting(one: Try) -> int:
    return _killed_with_simulator(one, "newton")


def _killed_with_simulator(one: Try, simulator: str) -> int:
    config = {**_WAITING, "width": 320, "height": 240}
    training = one.start(config=config, simulator=simulator, period_s=0.001)
    training.wait_until(lambda: training.progress.get("is_open"), "the recorder was open", 120.0)
    lag_behind(one, training)
    training.send(signal.SIGKILL)
    training.wait()
    one.nothing_runs(120.0)
    service_finishes(one, training, config, every=0)
    return 0


@row("Kill the worker: another one goes on; what was lost is counted as worker_lost, at most a second of video.")
def kill_worker(one: Try) -> int:
    config = settings(one)
    training = one.start(config=config, steps=500)
    training.wait_open()
    training.wait_steps(one.random.randint(0, 250))
    os.kill(training.worker(), signal.SIGKILL)
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    clips = evidence.check_done(one.folder)
    summary = one.accounts(training, clips, steps=500)
    require(set(summary["dropped"]) <= {"worker_lost"}, f"dropped for other causes: {summary['dropped']}")
    loss = dropped_in(summary)
    require(loss <= FPS, f"{loss} frames lost with one worker")
    return loss


@row("Kill everything at once: closed segments are whole, and at most a second of the open one is lost.")
def kill_everything(one: Try) -> int:
    config = settings(one)
    training = start(one, config)
    training.kill_everything()
    training.wait()
    one.nothing_runs()
    loss = lost_frames(one, training, config)
    one.recover()
    return loss


@row("Kill everything at once while snapshots wait: after `stepreel recover`, at most the last second is missing.")
def kill_everything_with_snapshots(one: Try) -> int:
    backend = {"snapshot": True, "render_delay_s": one.random.choice([0.0, 0.01, 0.05])}
    length = one.random.choice([60, 2000])
    config = {**_WAITING, "video_length": length, "video_interval": length}
    training = one.start(config=config, backend=backend)
    training.wait_open()
    training.wait_steps(one.random.randint(1, 500))
    return _recovered_but_for_the_last_second(one, training, config)


@row(
    "Kill everything of Ant-v5 at once: after `stepreel recover`, at most the last second is missing.",
    slow=True,
)
def kill_everything_of_ant(one: Try) -> int:
    return _killed_with_all(one, "ant", most_steps=500)


@row(
    "Kill everything of a Newton simulation at once: after `stepreel recover`, at most the last second is missing.",
    tries=2,
    slow=True,
)
def kill_everything_of_newton(one: Try) -> int:
    return _killed_with_all(one, "newton", most_steps=200)


def _killed_with_all(one: Try, simulator: str, most_steps: int) -> int:
    config = {**_WAITING, "width": 320, "height": 240}
    training = one.start(config=config, simulator=simulator, period_s=0.001)
    training.wait_until(lambda: training.progress.get("is_open"), "the recorder was open", 120.0)
    training.wait_steps(one.random.randint(1, most_steps))
    return _recovered_but_for_the_last_second(one, training, config, every=0)


def _recovered_but_for_the_last_second(one: Try, training: Training, config: dict[str, Any], every: int = 1) -> int:
    training.kill_everything()
    killed_ns = time.monotonic_ns()
    training.wait()
    one.nothing_runs()
    evidence.check_alive(one.folder, every)
    one.recover(every=every)
    lost = captured(config, training.steps) - shown(evidence.look(one.folder, every))
    if lost:
        lost_s = (killed_ns - training.times.of(min(lost))) / 1e9
        one.notes.append(f"{len(lost)} frames of the last {lost_s:.2f} s")
        require(lost_s <= SPOOLED_S, f"{len(lost)} frames are gone, of the last {lost_s:.2f} s")
    return len(lost)


@row("Killed exactly when a file is made, written, closed, renamed or replaced: nothing that was closed is damaged.")
def kill_at_a_file_operation(one: Try) -> int:
    role = one.random.choice(["service", "worker"])
    act = one.random.choice(["kill", "kill_all"])
    ambush = {"role": role, "act": act, "operation": one.random.randint(1, 90)}
    config = {"fps": FPS, "video_length": 25, "video_interval": 25, "segment_s": 0.1}
    backend = {"snapshot": one.random.random() < 0.5}
    training = one.start(ambush=ambush, config=config, backend=backend, steps=200)
    status = training.wait()
    one.nothing_runs()
    fired = one.scratch / "fired"
    one.notes.append(f"{act} {fired.read_text()}" if fired.exists() else "the moment never came")
    if status == 0:
        clips = evidence.check_done(one.folder)
        loss = dropped_in(one.accounts(training, clips, steps=200))
        require(loss <= FPS, f"{loss} frames lost")
        one.recover_nothing()
        return loss
    is_refused = fired.exists() and not training.progress.get("is_open") and "WorkerError" in training.output
    if is_refused and role == "worker":
        status = -signal.SIGKILL  # A worker that dies before it is ready: opening the recorder says so.
    require(status == -signal.SIGKILL, f"the training ended with status {status}: {training.output[-2000:]}")
    loss = lost_frames(one, training, config) if one.folder.exists() else 0
    one.recover()
    return loss
