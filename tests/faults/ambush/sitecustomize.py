"""Lies in wait in a program under test: does something at its n-th operation on a file of the output folder.

Python imports this before the program where its folder is on the path; `STEPREEL_AMBUSH` says what to do, as JSON.
`role`: "training", "worker" or "command"; `act`: "kill", "kill_both" or "log"; `operation`: counted from 1;
`folder`: where the files lie; `scratch`: where the ambush keeps its own files.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

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
        nonlocal count
        if event not in _WATCHED or os.getpid() != pid:
            return
        paths = [os.fsdecode(one) for one in arguments[:2] if isinstance(one, str | bytes)]
        if plan["act"] == "log":
            if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_NOFOLLOW:
                event = "open_no_link"  # Refused by the system, where it is one.
            os.write(log, "".join(f"{event} {os.path.abspath(path)}\n" for path in paths).encode("utf-8", "replace"))
            return
        if any(path.startswith(folder) for path in paths):
            count += 1
            if count == nth:
                _kill(scratch, event, paths, both=plan["act"] == "kill_both")

    sys.addaudithook(watch)


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
