"""Lies in wait in a program under test: does something at its n-th operation on a file of the output folder.

Operations are those that change which files there are, the writing of a segment, and each `fsync`.

Python imports this before the program where its folder is on the path; `STEPREEL_AMBUSH` says what to do, as JSON.
`role`: "training", "worker" or "command"; `act`: "kill", "kill_both" or "log"; `operation`: counted from 1;
`folder`: where the files lie; `scratch`: where the ambush keeps its own files.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WATCHED = ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "os.link", "os.symlink")


def _role() -> str:
    if "stepreel.encoders.worker" in sys.orig_argv:
        return "worker"
    return "command" if "stepreel.cli" in sys.orig_argv else "training"


def _lay(plan: dict[str, str]) -> None:
    folder, scratch = plan["folder"], Path(plan["scratch"])
    # Open already: opening it later would be watched, too.
    log = os.open(scratch / "opened.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nth = int(plan.get("operation", 0))
    count = 0
    pid = os.getpid()

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _WATCHED or os.getpid() != pid:
            return
        paths = [os.fsdecode(one) for one in arguments[:2] if isinstance(one, str | bytes)]
        if plan["act"] == "log":
            if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_NOFOLLOW:
                event = "open_no_link"  # Refused by the system, where it is one.
            os.write(log, "".join(f"{event} {os.path.abspath(path)}\n" for path in paths).encode("utf-8", "replace"))
            return
        strike(event, paths)

    def strike(event: str, paths: list[str]) -> None:
        nonlocal count
        if os.getpid() == pid and any(path.startswith(folder) for path in paths):
            count += 1
            if count == nth:
                _kill(scratch, event, paths, both=plan["act"] == "kill_both")

    sys.addaudithook(watch)
    if nth:
        _watch_writes(strike)


def _watch_writes(strike: Callable[[str, list[str]], None]) -> None:
    """Have what Python tells no hook of struck, too."""
    open_any, fsync = builtins.open, os.fsync

    class Part(io.FileIO):
        def write(self, data: Any) -> int:
            strike("write", [os.fsdecode(self.name)])
            return super().write(data)

    def open_watched(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
        is_part = mode == "xb" and buffering == 0
        return Part(file, "x") if is_part else open_any(file, mode, buffering, *more, **named)

    def fsync_watched(fd: Any) -> None:
        strike("fsync", [os.readlink(f"/proc/self/fd/{fd}")])
        fsync(fd)

    builtins.open, os.fsync = open_watched, fsync_watched


def _kill(scratch: Path, event: str, paths: list[str], *, both: bool) -> None:
    try:
        fd = os.open(scratch / "fired", os.O_WRONLY | os.O_CREAT | os.O_EXCL)  # Once in a run.
    except FileExistsError:
        return
    os.write(fd, f"{_role()}: {event} {' '.join(os.path.basename(path) for path in paths)}".encode())
    os.close(fd)
    if both and _role() == "worker":
        os.kill(os.getppid(), signal.SIGKILL)
    elif both:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children") as children:
                for child in children.read().split():
                    os.kill(int(child), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


_plan = json.loads(os.environ.get("STEPREEL_AMBUSH", "null"))
if _plan and _plan["role"] in (_role(), "any"):
    _lay(_plan)
