"""The service's own worker threads: an application that holds all of anyio's would stall the recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")
_COUNT = 8


class Threads:
    """Runs what blocks, with a limit of its own. Belongs to one event loop."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(_COUNT)

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """Call it on a thread, and return what it returns."""
        # Never abandoned: a file half written by a thread that nobody waits for would surprise the next one.
        return await anyio.to_thread.run_sync(call, *arguments, limiter=self._limiter)
