"""The recording service as a program: `python -m stepreel.service`, started by a recorder only.

It records what one training process captures, into one folder, and goes on when that process ends in whatever way,
until all is encoded. It does not hear Ctrl-C. `stepreel ps` lists such processes.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import anyio

from ..config import WorkerPriority
from ..storage.session_files import append_crash
from ..transport.messages import ServiceDescription, decode
from ..transport.shared_memory import SharedMemory
from .service import RecordingService

_NICE = 10


def main() -> int:
    """Record until there is nothing left to do; return the exit status."""
    parser = argparse.ArgumentParser(prog="stepreel service", description=__doc__)
    parser.add_argument("--memory", type=int, required=True, help="descriptor of the memory shared with training")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socket to training")
    parser.add_argument("--folder", required=True, help="output folder, for whoever looks at the list of processes")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    _close_all_but(0, 1, 2, arguments.memory, arguments.socket)
    memory = SharedMemory.attach(arguments.memory)
    description = decode(memory.description, ServiceDescription)
    if description.worker_priority is not WorkerPriority.NORMAL:
        os.nice(_NICE)
    gc.freeze()
    connection = socket.socket(fileno=arguments.socket)
    try:
        anyio.run(RecordingService(memory, connection).run)
    except BaseException:  # noqa: BLE001 - told where somebody may look for it.
        append_crash(Path(description.folder), description.stem, traceback.format_exc())
        return 1
    return 0


def _close_all_but(*kept: int) -> None:
    """Close what training lets programs inherit: a port, a pipe to another program; this one may outlive training."""
    for entry in os.listdir("/dev/fd"):
        if int(entry) not in kept:
            with suppress(OSError):  # That of the listing itself is closed already.
                os.close(int(entry))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
