"""Waking the event loop from another thread, and no more often than needed."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Doorbell:
    """Rung from any thread without waiting; awaited by one task.

    Ringing costs a write to a pipe. It keeps no note of having rung: an interruption (Ctrl-C) between the note and
    the write would silence it. What is to be seen must be in place before the ring.
    """

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        for fd in (self._read_fd, self._write_fd):
            os.set_blocking(fd, False)

    def ring(self) -> None:
        """Wake the task that waits."""
        if self._write_fd >= 0:
            with contextlib.suppress(BlockingIOError):  # Full of rings that were not answered yet.
                os.write(self._write_fd, b"\0")

    async def wait(self) -> None:
        """Return once it was rung since the last return."""
        while True:
            try:
                os.read(self._read_fd, 4096)
            except BlockingIOError:
                await anyio.wait_readable(self._read_fd)
            else:
                return

    def close(self) -> None:
        """Nobody may ring or wait any more."""
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1


class Pulse:
    """Lets any number of tasks of one event loop wait for the next change of something; free where nobody waits.

    Whoever waits looks first, and awaits nothing between the look and `wait`.
    """

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def beat(self) -> None:
        """Wake everybody who waits."""
        event, self._event = self._event, None
        if event:
            event.set()

    async def wait(self) -> None:
        """Wait for the next beat."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class Turns:
    """Has the tasks of one event loop do their work together, in turns some time apart.

    Whatever the loop does, it does with the GIL, while a simulator that gave it up waits to get it back: a few
    turns that find much to do delay the training less than many that find little.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._hurries = 0

    async def rest(self) -> None:
        """Return at the next turn; at once while anybody is in a hurry."""
        await self._rest(0.0)

    async def rest_between(self) -> None:
        """Return in the middle between two turns, with work that would make a turn long; at once in a hurry."""
        await self._rest(0.5)

    async def _rest(self, phase: float) -> None:
        if self._interval_s and not self._hurries:
            now = anyio.current_time()
            await anyio.sleep((math.floor(now / self._interval_s - phase) + 1 + phase) * self._interval_s - now)

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Have nobody rest meanwhile: somebody waits for the end of the work."""
        self._hurries += 1
        try:
            yield
        finally:
            self._hurries -= 1
