"""Disks that are full, gone, broken or slow."""

from __future__ import annotations

import json
import resource
import shutil
import time
from pathlib import Path
from typing import Any

from stepreel import RecorderConfig

from .. import evidence
from ..evidence import ClipEvidence, dropped_in, require
from ..harness import NotHereError, Training, Try
from ..matrix import row

# Most disks here are smaller than the free space that is kept by default.
_FLOOR = {"min_free_bytes": 0} if "min_free_bytes" in RecorderConfig.__dataclass_fields__ else {}
CONFIG: dict[str, Any] = {
    "fps": 30,
    "video_length": 25,
    "video_interval": 25,
    "segment_s": 0.3,
    "queue_depth": 4096,  # Eight seconds: nothing is dropped because the machine's own disk is busy.
    **_FLOOR,
}
_WRITE_CAUSES = {"disk_full", "encode_failed"}
_LONGEST_CALL_S = 0.5
"""Much less than any disk here is away for, and more than a busy machine takes a thread off its core."""


def start(one: Try, **more: Any) -> Training:
    """Start a training, and wait for a moment at random in it."""
    training = one.start(config={**CONFIG, **more}, steps=100_000)
    training.wait_open()
    training.wait_steps(one.random.randint(1, 120))
    return training


def wait_for_drops(training: Training) -> None:
    training.wait_until(lambda: training.progress.get("dropped"), "a frame was dropped")


def wait_for_clips(training: Training, count: int) -> None:
    """Wait until so many more clips are closed without loss."""
    seen = training.progress.get("complete") + count
    training.wait_until(lambda: training.progress.get("complete") >= seen, "the next clips were recorded")


def end(one: Try, training: Training) -> dict[str, Any]:
    """Have the training end well, having waited for no disk."""
    training.stop()
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    longest_s = training.progress.get("longest_ns") / 1e9
    require(longest_s < _LONGEST_CALL_S, f"a step of the recorder took {longest_s:.2f} s")
    return training.summary()


def check_causes(summary: dict[str, Any], allowed: set[str]) -> int:
    require(set(summary["dropped"]) <= allowed, f"dropped for other causes: {summary['dropped']}")
    dropped = dropped_in(summary)
    require(summary["requested"] == summary["encoded"] + dropped, f"requested is not encoded + dropped: {summary}")
    require(summary["restarts"] == 0, f"{summary['restarts']} workers were lost over a disk")
    return dropped


def settle(one: Try, summary: dict[str, Any]) -> list[ClipEvidence]:
    """What is left is whole, and after `recover` nothing is open any more."""
    clips = evidence.check_alive(one.folder)
    shown = sum(len(clip.steps) for clip in clips)
    require(shown >= summary["encoded"], f"{summary['encoded']} called encoded, {shown} in the files")
    one.recover()
    return clips


def goes_on(one: Try, training: Training, causes: set[str]) -> dict[str, Any]:
    """Have the next clips recorded, now that the disk is well again, and the training end; return its summary."""
    wait_for_clips(training, 2)
    summary = end(one, training)
    check_causes(summary, causes)
    settle(one, summary)
    return summary


@row("The disk fills up: training goes on, frames are dropped as disk_full, and with room again clips are recorded.")
def full_disk(one: Try) -> int:
    with one.small_disk(512) as folder:
        training = start(one, gop_s=0.2)
        ballast = folder / "ballast"
        _fill(ballast)
        try:
            wait_for_drops(training)
        finally:
            ballast.unlink()
        summary = goes_on(one, training, _WRITE_CAUSES)
        require(summary["dropped"].get("disk_full"), f"not called disk_full: {summary['dropped']}")
        return dropped_in(summary)


def _fill(ballast: Path) -> None:
    with open(ballast, "wb", buffering=0) as file:
        for nbytes in (4096, 512, 64):
            try:
                while file.write(bytes(nbytes)) == nbytes:
                    pass
            except OSError:
                continue


@row("A limit on the size of files is like a full disk; with the limit gone the next clips are recorded.")
def file_size_limit(one: Try) -> int:
    training = start(one)
    pids = [training.pid, training.service(), *training.workers()]
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    limit = one.random.randint(0, 2500)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, before[pid][1]))
    wait_for_drops(training)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before[pid])
    return dropped_in(goes_on(one, training, {"disk_full"}))


@row("The folder becomes read-only: training goes on, frames are encode_failed; writable again, clips are recorded.")
def read_only_folder(one: Try) -> int:
    with one.disk() as disk:
        training = start(one)
        # Immutable: a filesystem would not become read-only while a file of it is written.
        disk.allow_changes(allowed=False)
        wait_for_drops(training)
        disk.allow_changes(allowed=True)
        return dropped_in(goes_on(one, training, {"encode_failed"}))


@row("The folder is deleted: training goes on, frames are encode_failed; with the folder back, clips are recorded.")
def folder_deleted(one: Try) -> int:
    training = start(one)
    shutil.rmtree(one.folder, ignore_errors=True)
    while one.folder.exists():
        shutil.rmtree(one.folder, ignore_errors=True)
    wait_for_drops(training)
    one.folder.mkdir()
    step = training.progress.get("steps")

    def begun_later() -> set[str]:
        complete = [str(event["clip"]) for event in training.diary.events("complete")]
        return {name for name in complete if int(name.split("-")[3]) > step}

    training.wait_until(lambda: len(begun_later()) >= 2, "the next clips were recorded")
    summary = end(one, training)
    dropped = check_causes(summary, _WRITE_CAUSES)
    # Of clips that were begun by then the manifest tells segments that somebody deleted; the later ones are whole.
    for clip in evidence.look(one.folder):
        if clip.name in begun_later():
            evidence.check_clip(clip, one.folder)
    return dropped


@row("The disk answers with input/output errors: training goes on, frames are encode_failed.")
def input_output_error(one: Try) -> int:
    with one.disk() as disk:
        training = start(one)
        disk.fail()
        wait_for_drops(training)
        summary = end(one, training)
        dropped = check_causes(summary, {"encode_failed"})
        disk.replace()
        evidence.check_alive(one.folder)
        one.recover()
        return dropped


@row("The power is cut: segments under their final names are whole on the disk, and so is each manifest.")
def power_cut(one: Try) -> int:
    with one.disk() as disk:
        training = start(one)
        reported = len(training.diary.events("complete"))
        disk.fail()
        training.kill_everything()
        training.wait()
        one.nothing_runs()
        disk.replace()
        clips = evidence.check_alive(one.folder)
        complete = [clip.name for clip in clips if clip.state == "complete"]
        told = [event["clip"] for event in training.diary.events("complete")[:reported]]
        require(set(told) <= set(complete), f"clips {sorted(set(told) - set(complete))} were closed, and are not")
        one.recover()
        return 0


@row("A disk that takes seconds for each write: steps take as long as ever, and drops are by policy only.")
def slow_disk(one: Try) -> int:
    with one.disk() as disk:
        depth = one.random.choice([40, 1024])
        training = start(one, queue_depth=depth, segment_s=None)
        disk.freeze()
        try:
            before = training.progress.get("steps")
            time.sleep(one.random.uniform(0.8, 1.5))
            steps = training.progress.get("steps") - before
        finally:
            disk.resume()
        require(steps > 100, f"only {steps} steps while the disk was away")
        wait_for_clips(training, 1)
        summary = end(one, training)
        dropped = check_causes(summary, {"queue_full"} if depth < 1024 else set())
        clips = evidence.check_done(one.folder)
        one.accounts(training, clips)
        one.recover_nothing()
        return dropped


@row("With a free-space floor, recording stops before the disk is full and goes on when there is room.")
def free_space_floor(one: Try) -> int:
    if "min_free_bytes" not in RecorderConfig.__dataclass_fields__:
        raise NotHereError("there is no min_free_bytes")
    with one.small_disk(4096) as folder:
        training = start(one, min_free_bytes=2**20)
        ballast = folder / "ballast"
        with open(ballast, "wb") as file:
            file.write(bytes(shutil.disk_usage(folder).free - 2**19))
        try:
            wait_for_drops(training)
            free = shutil.disk_usage(folder).free
            require(free > 2**18, f"only {free} bytes were left free")
        finally:
            ballast.unlink()
        return dropped_in(goes_on(one, training, {"disk_full"}))


@row("No room for the snapshots on disk: clips are drawn all the same, and the log counts what is not kept.")
def no_room_for_snapshots(one: Try) -> int:
    config = {"fps": 30, "video_length": 200, "video_interval": 200}
    training = one.start(config=config, backend={"snapshot": True, "render_delay_s": 0.004}, steps=600)
    training.wait_open()
    service = training.service()
    # Enough for manifests and the log, and for a part of the snapshots.
    limit = one.random.randint(8_000, 25_000)
    resource.prlimit(service, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    summary = one.accounts(training, evidence.check_done(one.folder), steps=600)
    require(not summary["dropped"], f"dropped: {summary['dropped']}")
    lines = [json.loads(line) for line in (one.folder / "session.jsonl").read_text().splitlines()]
    told = sum(line["count"] for line in lines if line["event"] == "snapshots.not_kept")
    require(told, "the log does not tell that snapshots were not kept")
    one.recover_nothing()
    return 0
