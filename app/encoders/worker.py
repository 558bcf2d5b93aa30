"""The worker program: `python -m stepreel.encoders.worker`, started by the recording service only.

It reads commands from one pipe and captures from the shared memory, renders, encodes, and reports on another pipe.
It ends when the command pipe is closed, by the service or by its death.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..config import WorkerPriority
from ..transport.control_bytes import SOMEBODY_WAITS, TRAINING_IS_IDLE, WORKERS_ARE_RAISED
from .command_handler import CommandHandler
from .command_pipe import CommandPipe
from .cpus import TrainingApart
from .priorities import Priorities
from .protocol import Reply, to_bytes
from .renderer_host import RendererHost
from .watch import Watch


@dataclass(frozen=True, slots=True)
class _ControlBytes:
    memory: mmap.mmap

    def are_workers_raised(self) -> bool:
        return self.memory[WORKERS_ARE_RAISED] != 0

    def is_rest_unwanted(self) -> bool:
        return self.memory[TRAINING_IS_IDLE] != 0 or self.memory[SOMEBODY_WAITS] != 0


def main() -> None:
    """Work until the command pipe is closed."""
    arguments = _parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    orphaned = os.pipe()
    memory = mmap.mmap(arguments.memory, arguments.memory_nbytes, prot=mmap.PROT_READ)
    apart = TrainingApart(arguments.training_process, arguments.training_thread, arguments.cpus)
    priorities = Priorities()
    watch = Watch(
        parent=arguments.parent,
        command_fd=arguments.commands,
        orphaned_fd=orphaned[1],
        memory=memory,
        apart=apart,
        priorities=priorities,
    )
    threading.Thread(target=watch.run, daemon=True).start()
    control = _ControlBytes(memory)
    pipe = CommandPipe(arguments.commands, orphaned[0])
    send = _sender(arguments.replies)
    handler = CommandHandler(
        np.frombuffer(memory, dtype=np.uint8),
        send,
        host=RendererHost(send, apart.lifted),
        priorities=priorities,
        rest=lambda seconds: pipe.rest(seconds, control.is_rest_unwanted),
    )
    # In a thread that lowers itself, so that this one can go on with a policy that the other can't leave.
    with ThreadPoolExecutor(max_workers=1) as thread:
        is_done = thread.submit(_work, handler, pipe, control.are_workers_raised).result()
    if not is_done:
        priorities.lower(WorkerPriority.LOW)
        _work(handler, pipe, lambda: False)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stepreel worker", description=__doc__)
    for name, meaning in (
        ("--memory", "descriptor of the shared memory"),
        ("--memory-nbytes", "its size"),
        ("--commands", "descriptor of the pipe to read commands from"),
        ("--replies", "descriptor of the pipe to write replies to"),
        ("--parent", "process whose death ends this one"),
        ("--training-process", "process in which training runs"),
        ("--training-thread", "native identifier of its thread, whose CPU is left to it"),
    ):
        parser.add_argument(name, type=int, required=True, help=meaning)
    parser.add_argument("--cpus", type=_cpus, help="CPUs to use, such as 0,2,3; default: those allowed at the start")
    return parser.parse_args()


def _cpus(text: str) -> frozenset[int]:
    return frozenset(int(number) for number in text.split(","))


def _sender(fd: int) -> Callable[[Reply], None]:
    def send(reply: Reply) -> None:
        data = memoryview(to_bytes(reply))
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(fd, data) :]

    return send


def _work(handler: CommandHandler, pipe: CommandPipe, is_raised: Callable[[], bool]) -> bool:
    """Perform commands until there are no more, or return False once the rest is to have another priority."""
    for command in pipe:
        handler.handle(command)
        if is_raised():
            return False
    handler.close()
    return True


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # GL and Warp take seconds to tear down, and own nothing that outlives the process.
