"""Waking tasks of one event loop, and having them work in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Notifier:
    """Lets any number of tasks of one event loop wait for the next change of something; free where nobody waits.

    Whoever waits looks first, and awaits nothing between the look and `wait`.
    """

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Wake everybody who waits."""
        event, self._event = self._event, None
        if event:
            event.set()

    async def wait(self, timeout_s: float = math.inf) -> None:
        """Wait for the next change, or until the time is over."""
        if self._event is None:
            self._event = anyio.Event()
        event = self._event
        with anyio.move_on_after(timeout_s):
            await event.wait()


class Batching:
    """Has the tasks of one event loop do their work together, at points some time apart.

    In a loop that training shares its interpreter with, a few long runs delay training less than many short ones.
    """

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._hurries = 0

    @property
    def is_hurried(self) -> bool:
        """Whether anybody waits for the end of the work."""
        return self._hurries > 0

    async def rest(self) -> None:
        """Return at the next point; at once while anybody is in a hurry."""
        if self.interval_s and not self._hurries:
            now = anyio.current_time()
            await anyio.sleep((math.floor(now / self.interval_s) + 1) * self.interval_s - now)

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Have nobody rest meanwhile."""
        self._hurries += 1
        try:
            yield
        finally:
            self._hurries -= 1
