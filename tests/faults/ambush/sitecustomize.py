"""Lies in wait in a program under test: does something at its n-th operation on a file of the output folder.

Operations are those that change which files there are, the writing of a segment, and each `fsync`.

Python imports this before the program where its folder is on the path; `STEPREEL_AMBUSH` says what to do, as JSON.
`role`: "training", "service", "worker" or "command"; `act`: "kill", "kill_all" (every process of the try at once),
"hang" or "log"; `operation`: counted from 1; `event`: count operations of this kind only; `folder`: where the files
lie; `scratch`: where the ambush keeps its own files; `mark`: the variable that all processes of the try have.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WATCHED = ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "os.link", "os.symlink")


_PROGRAMS = {"stepreel.encoders.worker": "worker", "stepreel.service": "service", "stepreel.cli": "command"}


def _role() -> str:
    return next((role for name, role in _PROGRAMS.items() if name in sys.orig_argv), "training")


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
        if event != plan.get("event", event):
            return
        if os.getpid() == pid and any(path.startswith(folder) for path in paths):
            count += 1
            if count == nth and _is_first(scratch, event, paths):
                _act(plan)

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


def _is_first(scratch: Path, event: str, paths: list[str]) -> bool:
    """Tell what is struck; False where something was struck before in this run."""
    try:
        fd = os.open(scratch / "fired", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    os.write(fd, f"{_role()}: {event} {' '.join(os.path.basename(path) for path in paths)}".encode())
    os.close(fd)
    return True


def _act(plan: dict[str, str]) -> None:
    if plan["act"] == "hang":
        time.sleep(3600)
    if plan["act"] == "kill_all":
        others = _others(plan["mark"])
        # All of them stand still before the first one is gone: none has time to answer the death of another.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for other in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, number)
    os.kill(os.getpid(), signal.SIGKILL)


def _others(mark: str) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if mark.encode() in file.read().split(b"\0"):
                    found.append(int(entry))
    return found


_plan = json.loads(os.environ.get("STEPREEL_AMBUSH", "null"))
if _plan and _plan["role"] in (_role(), "any"):
    _lay(_plan)
