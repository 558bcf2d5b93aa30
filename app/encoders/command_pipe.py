"""What a worker is told, as it comes out of the pipe; and waiting that ends when nothing more will come."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator

from .protocol import Command, Finish, command_reader

_READ_NBYTES = 65536
_LOOK_S = 0.005


class CommandPipe:
    """The commands for a worker, in order. For one thread at a time.

    They end when the worker is told so, with the pipe, or when the parent has died: a process that the parent forked
    may hold the pipe open longer than either lives.

    Args:
        fd: The end of the pipe to read from.
        orphaned_fd: Becomes readable when the parent has died.
    """

    def __init__(self, fd: int, orphaned_fd: int) -> None:
        self._fd = fd
        self._orphaned_fd = orphaned_fd
        self._reader = command_reader()
        self._waiting: deque[Command] = deque()
        self._is_ended = False

    def __iter__(self) -> Iterator[Command]:
        """Yield commands until there are no more. Raises `WorkerError` where something else comes."""
        while self._waiting or not self._is_ended:
            if self._waiting:
                yield self._waiting.popleft()
            else:
                self._read(None)

    def rest(self, seconds: float, is_cut_short: Callable[[], bool]) -> None:
        """Wait, until commands have ended at the longest, or `is_cut_short`, which is looked at all the time."""
        end = time.monotonic() + seconds
        while not (self._is_ended or is_cut_short()) and (left_s := end - time.monotonic()) > 0:
            self._read(min(left_s, _LOOK_S))

    def _read(self, timeout_s: float | None) -> None:
        """Take what has come, or comes within the time."""
        readable = select.select([self._fd, self._orphaned_fd], [], [], timeout_s)[0]
        if not readable:
            return
        data = os.read(self._fd, _READ_NBYTES) if self._fd in readable else b""
        self._is_ended = not data
        for command in self._reader.feed(data):
            if isinstance(command, Finish):
                self._is_ended = True
                return
            self._waiting.append(command)
