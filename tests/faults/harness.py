"""One try of one row: a seed, a folder, training programs in processes of their own, and what is left of them."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stepreel.storage.folder_lock import is_recorded_into
from stepreel.storage.recovery import recover

from . import evidence
from .diary import Diary, Progress, StepTimes
from .evidence import ClipEvidence, require

ROOT = Path(__file__).resolve().parents[2]
AMBUSH = Path(__file__).resolve().parent / "ambush"
_MARK = "STEPREEL_FAULT_TRY"
_SERVICE = b"stepreel.service"
_WORKER = b"stepreel.encoders.worker"
GONE_S = 2.0
"""Time in which processes end that have nothing to do any more [s]."""
FINISHED_S = 20.0
"""Time in which a service that lives on draws and encodes what it has, in any row [s]."""


class NotHereError(Exception):
    """This machine can't make the fault: no mounts, no such command."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one try showed."""

    held: bool
    loss_frames: int
    detail: str
    skipped: bool = False


class Training:
    """A training program that runs: the parent of its recording service, which is the parent of the workers."""

    def __init__(
        self,
        one: Try,
        name: str,
        ambush: dict[str, Any] | None,
        variables: dict[str, str] | None,
        options: dict[str, Any],
    ) -> None:
        self._try = one
        self.scratch = one.scratch
        self.progress = Progress(one.scratch / "progress")
        self.times = StepTimes(one.scratch / "times")
        self.diary = Diary(one.scratch / "diary.jsonl")
        self._output = open(one.scratch / "output.txt", "ab")
        arguments = [sys.executable, "-m", "tests.faults.programs", name]
        arguments += [str(one.folder), str(one.scratch), json.dumps(options)]
        self.process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env={**one.environment(ambush), **(variables or {})},
            stdout=self._output,
            stderr=self._output,
        )
        one.trainings.append(self)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return (self.scratch / "output.txt").read_text(errors="replace")

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            require(self.process.poll() is None, f"the training ended before {what}: {self.output[-2000:]}")
            require(time.monotonic() < deadline, f"it took more than {timeout_s:g} s until {what}")
            time.sleep(0.002)

    def wait_open(self) -> None:
        self.wait_until(lambda: self.progress.get("is_open"), "the recorder was open", 30.0)

    def wait_steps(self, steps: int) -> None:
        self.wait_until(lambda: self.progress.get("steps") >= steps, f"step {steps}")

    def services(self) -> list[int]:
        """Process ids of its recording services, also once the training is gone."""
        return self._try.processes(_SERVICE)

    def service(self) -> int:
        self.wait_until(self.services, "there was a service")
        return self.services()[0]

    def workers(self) -> list[int]:
        """Process ids of the workers of its service, also once both are gone."""
        return self._try.processes(_WORKER)

    def worker(self) -> int:
        self.wait_until(self.workers, "there was a worker")
        return self.workers()[0]

    def kill_everything(self) -> None:
        """Kill training, service and workers at once: they stand still before the first one is gone."""
        self._try.kill_at_once([self.pid, *self.services(), *self.workers()])

    @property
    def steps(self) -> int:
        """Steps that it has taken for certain: it wrote each of them down after the recorder had counted it."""
        return self.progress.get("steps")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Ask the training loop to end."""
        self.progress.set("stop", 1)

    def wait(self, timeout_s: float = 30.0) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as exc:
            self.send(signal.SIGUSR1)
            time.sleep(0.5)
            raise evidence.Broken(f"the training did not end within {timeout_s:g} s: {self.output[-2500:]}") from exc
        finally:
            self._output.close()

    def end_well(self, timeout_s: float = 30.0) -> None:
        status = self.wait(timeout_s)
        require(status == 0, f"the training ended with status {status}: {self.output[-3000:]}")

    def summary(self) -> dict[str, Any]:
        found = self.diary.events("summary")
        require(found, f"the training told no summary: {self.output[-2000:]}")
        return found[-1]


class Try:
    """A seed and what belongs to it."""

    def __init__(self, seed: int, *, long: bool) -> None:
        self.seed = seed
        self.long = long
        self.random = random.Random(seed)
        self.base = Path(tempfile.mkdtemp(prefix="stepreel-fault-"))
        self.folder = self.base / "videos"
        self.scratch = self.base / "scratch"
        self.scratch.mkdir()
        self.trainings: list[Training] = []
        self.notes: list[str] = []
        self._mark = uuid.uuid4().hex
        self._mounts: list[Path] = []

    def environment(self, ambush: dict[str, Any] | None = None) -> dict[str, str]:
        path = os.pathsep.join([str(AMBUSH), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        about = {"folder": str(self.folder), "scratch": str(self.scratch), "mark": f"{_MARK}={self._mark}"}
        plan = {**about, **ambush, "folder": str(ambush.get("folder", self.folder))} if ambush else None
        # One thread for each library: they would start as many as there are cores, in each of the processes.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return {**os.environ, **threads, _MARK: self._mark, "PYTHONPATH": path, "STEPREEL_AMBUSH": json.dumps(plan)}

    def start(
        self,
        name: str = "train",
        *,
        ambush: dict[str, Any] | None = None,
        variables: dict[str, str] | None = None,
        **options: Any,
    ) -> Training:
        """Start a program, with more environment variables, and with these options for itself."""
        return Training(self, name, ambush, variables, options)

    def command(
        self, *arguments: str, ambush: dict[str, Any] | None = None, timeout_s: float = 60.0
    ) -> tuple[int, str]:
        """Run `stepreel` with these arguments; return its exit status and all that it wrote."""
        try:
            run = subprocess.run(
                [sys.executable, "-m", "stepreel.cli", *arguments],
                cwd=ROOT,
                env=self.environment(ambush),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise evidence.Broken(f"stepreel {' '.join(arguments)} took more than {timeout_s:g} s") from exc
        return run.returncode, run.stdout + run.stderr

    # What must hold afterwards

    def nothing_runs(self, within_s: float = GONE_S) -> None:
        """Every process of this try ends soon, service and workers too, and nobody holds the folder."""
        deadline = time.monotonic() + within_s
        while self.processes() or is_recorded_into(self.folder):
            if time.monotonic() > deadline:
                left = [f"{pid} {_read_proc(pid, 'cmdline')[:200]!r}" for pid in self.processes()]
                raise evidence.Broken(f"still running {within_s:g} s later: {left}")
            time.sleep(0.02)

    def nothing_held(self, training: Training) -> None:
        """The program itself holds, after closing its recorder, what it held before."""
        found = training.diary.events("holdings")
        require(found, "the training did not get so far as to tell what it holds")
        require(not found[-1]["beyond"], f"held after closing: {found[-1]['beyond']}")

    def accounts(self, training: Training, clips: list[ClipEvidence], *, steps: int | None = None) -> dict[str, Any]:
        """The recorder's own numbers hold, and are those of the files."""
        summary = training.summary()
        dropped = sum(summary["dropped"].values())
        require(not summary["pending"], f"frames pending after closing: {summary}")
        require(summary["requested"] == summary["encoded"] + dropped, f"requested is not encoded + dropped: {summary}")
        require(steps is None or summary["steps"] == steps, f"{summary['steps']} steps taken, not {steps}")
        shown = sum(len(clip.steps) for clip in clips)
        require(shown == summary["encoded"], f"{summary['encoded']} called encoded, {shown} in the files")
        return summary

    def recover_nothing(self) -> None:
        """Where nothing was killed, `recover` finds nothing to do; but for drawing snapshots, where some are kept."""
        before = evidence.fingerprint(self.folder)
        self._recover_again("with nothing to repair", "--no-draw")
        require(evidence.fingerprint(self.folder) == before, "recover, with nothing to repair, changed files")
        if evidence.manifests(self.folder):
            self._inspect()

    def recover(self, *flags: str, every: int = 1) -> int:
        """Repair the folder twice: the second time there is nothing to do. Returns the first exit status."""
        before = {clip.name: clip.steps for clip in evidence.look(self.folder, every)}
        status, output = self.command("recover", str(self.folder), *flags)
        require(status in (0, 3), f"recover exits {status}: {output[-2000:]}")
        clips = evidence.check_done(self.folder, every)
        after = {clip.name: clip.steps for clip in clips}
        for name, steps in before.items():
            lost = sorted(steps - after.get(name, set()))
            require(not lost, f"recover lost {len(lost)} frames of {name} that could be played: {lost[:5]}")
        once = evidence.fingerprint(self.folder)
        self._recover_again("called again", *flags)
        require(evidence.fingerprint(self.folder) == once, "recover, called again, changed files")
        if clips:
            self._inspect()
        return status

    def _recover_again(self, when: str, *flags: str) -> None:
        """Find nothing to repair; mostly without a program of its own, whose start is dear."""
        if self.seed % 4 == 0:
            status, output = self.command("recover", str(self.folder), *flags)
            require(status == 0, f"recover, {when}, exits {status}: {output[-2000:]}")
        else:
            found = recover(self.folder)
            require(not (found.repaired or found.removed or found.problems), f"recover, {when}: {found}")

    def recover_draws_the_rest(self) -> None:
        """Where snapshots are kept, `recover` draws all that is missing."""
        status, output = self.command("recover", str(self.folder))
        require(status == 0, f"recover exits {status}: {output[-2000:]}")
        missing = {clip.name: clip.dropped for clip in evidence.check_done(self.folder) if clip.dropped}
        require(not missing, f"after recover, clips lack frames: {missing}")

    def render(self) -> None:
        """Draw the snapshots that were kept."""
        status, output = self.command("render", str(self.folder))
        require(status == 0, f"render exits {status}: {output[-2000:]}")

    def _inspect(self) -> None:
        """See that `inspect` is content with what was found to be right. Now and then: a program's start is dear."""
        if self.seed % 4 == 0:
            status, output = self.command("inspect", str(self.folder))
            require(status == 0, f"inspect exits {status}: {output[-2000:]}")

    # Places that fail

    @contextmanager
    def small_disk(self, kib: int) -> Iterator[Path]:
        """A filesystem of `kib` KiB at the output folder."""
        self.folder.mkdir(exist_ok=True)
        _mount("tmpfs", self.folder, "tmpfs", f"size={kib}k")
        self._mounts.append(self.folder)
        yield self.folder

    @contextmanager
    def disk(self) -> Iterator[Disk]:
        """A filesystem with a journal, on a disk of its own, at the output folder."""
        image = self.base / "disk.img"
        with open(image, "wb") as file:
            file.truncate(32 * 2**20)
        made = (
            subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], capture_output=True, check=False)
            if shutil.which("mkfs.ext4")
            else None
        )
        if not made or made.returncode:
            raise NotHereError("no mkfs.ext4")
        disk = Disk(image, self.folder)
        disk.mount()
        self._mounts.append(self.folder)
        try:
            yield disk
        finally:
            disk.thaw()

    def processes(self, program: bytes = b"") -> list[int]:
        """Ids of the processes of this try that still run, wherever they were adopted; of one program where given."""
        mark = f"{_MARK}={self._mark}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and mark in _read_proc(int(entry), "environ").split(b"\0"):
                with suppress(FileNotFoundError, ProcessLookupError, IndexError):
                    state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
                    if state not in "ZX" and (not program or program in _read_proc(int(entry), "cmdline").split(b"\0")):
                        found.append(int(entry))
        return found

    def kill_at_once(self, pids: list[int]) -> None:
        """Kill all of them, in any order, none of which has time to answer the death of another."""
        self.random.shuffle(pids)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def tidy(self) -> None:
        """End what this try started and take its folder away."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for training in self.trainings:
            training.process.wait()
        for mount in self._mounts:
            subprocess.run(["umount", "-l", str(mount)], capture_output=True, check=False)
        shutil.rmtree(self.base, ignore_errors=True)


class Disk:
    """An ext4 filesystem in a file, that can be frozen, and that can fail."""

    _FREEZE, _THAW, _SHUTDOWN = 0xC0045877, 0xC0045878, 0x8004587D
    _WITHOUT_JOURNAL = 2
    _SET_FLAGS, _EXTENTS, _IMMUTABLE = 0x40086602, 0x80000, 0x10

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self._folder = folder
        self._fd = -1

    def mount(self) -> None:
        self._folder.mkdir(exist_ok=True)
        _mount(str(self._image), self._folder, "ext4", "loop")
        shutil.rmtree(self._folder / "lost+found", ignore_errors=True)
        self._fd = os.open(self._folder, os.O_RDONLY)

    def freeze(self) -> None:
        """Have every write and fsync wait."""
        fcntl.ioctl(self._fd, self._FREEZE, struct.pack("i", 0))

    def thaw(self) -> None:
        """Let them go on."""
        if self._fd >= 0:
            with suppress(OSError):
                fcntl.ioctl(self._fd, self._THAW, struct.pack("i", 0))
            os.close(self._fd)
            self._fd = -1

    def resume(self) -> None:
        """Let what is frozen go on, and keep the disk."""
        fcntl.ioctl(self._fd, self._THAW, struct.pack("i", 0))

    def allow_changes(self, *, allowed: bool) -> None:
        """Let names be made and changed in the folder, or not; for the superuser, too."""
        fcntl.ioctl(self._fd, self._SET_FLAGS, struct.pack("l", self._EXTENTS | (0 if allowed else self._IMMUTABLE)))

    def fail(self) -> None:
        """From now on everything is an input/output error; what was not brought to the disk is gone."""
        fcntl.ioctl(self._fd, self._SHUTDOWN, struct.pack("I", self._WITHOUT_JOURNAL))

    def replace(self) -> None:
        """Mount it again, as after a power cut."""
        os.close(self._fd)
        self._fd = -1
        deadline = time.monotonic() + 5.0
        # A program that another try is just starting holds the folder until its exec.
        while subprocess.run(["umount", str(self._folder)], capture_output=True, check=False).returncode:
            require(time.monotonic() < deadline, "the disk can't be unmounted: somebody still uses it")
            time.sleep(0.05)
        self.mount()


def _mount(source: str, folder: Path, kind: str, options: str) -> None:
    command = ["mount", "-t", kind, "-o", options, source, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise NotHereError(f"no mounts here: {run.stderr.strip()}")


def keep_mounts_private() -> None:
    """Give this process mounts of its own, so that none outlives it. Without the right to it, nothing happens."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, recursive_private = 0x00020000, 0x4000 | 0x40000
    if libc.unshare(new_mounts) == 0:
        libc.mount(b"none", b"/", None, recursive_private, None)


@cache
def has_command(name: str) -> bool:
    """Return whether there is such a command of `stepreel`."""
    run = subprocess.run(
        [sys.executable, "-m", "stepreel.cli", name, "--help"], cwd=ROOT, capture_output=True, check=False
    )
    return run.returncode == 0


def _read_proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
