"""The recording service as a program: `python -m stepreel.service`, started by a recorder only."""

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
_TITLE = b"stepreel"
"""What `top` and `ps -e` call the process; its command line, with the folder in it, stays as it is."""
_ABOUT = """\
The recording service of stepreel. It draws, encodes and writes the video clips of one training process into one
folder, in a process of its own so that training does not wait for it.

A recorder starts it; there is no use in starting it by hand. It ends by itself once training has closed the recorder,
or has ended in whatever way, and all that was captured is in its files. It does not hear Ctrl-C.

    stepreel ps          lists the recording services on this machine, and what they have left to do
    stepreel wait DIR    waits until nobody records into a folder any more
    stepreel recover DIR finishes the clips of a service that was killed
"""


def main() -> int:
    """Record until there is nothing left to do; return the exit status."""
    arguments = _parser().parse_args()
    with suppress(OSError):
        Path("/proc/self/comm").write_bytes(_TITLE)
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
        append_crash(description.path, description.stem, traceback.format_exc())
        return 1
    return 0


def _close_all_but(*kept: int) -> None:
    """Close what training lets programs inherit: a port, a pipe to another program; this one may outlive training."""
    for entry in os.listdir("/dev/fd"):
        if int(entry) not in kept:
            with suppress(OSError):  # That of the listing itself is closed already.
                os.close(int(entry))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stepreel.service", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=int, required=True, help="descriptor of the memory shared with training")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socket to training")
    parser.add_argument("--folder", required=True, help="where it records, for whoever looks at the list of processes")
    parser.add_argument("--training", type=int, help="the process that it records for, for the same")
    return parser


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
