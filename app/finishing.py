"""Showing how far a recorder is that was closed with work left: a bar on a terminal, else a line in the log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from .session import SessionLog

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE_S = 1.0
"""Closing that takes no longer is not worth a word."""
_REDRAW_S = 0.2
_LOG_S = 5.0


class FinishingProgress:
    """Tells how many frames are left while somebody waits for them. Belongs to the event loop's thread.

    Args:
        left: Returns how many frames are neither encoded nor dropped.
        log: Takes a line now and then where there is no terminal.
    """

    def __init__(self, left: Callable[[], int], log: SessionLog) -> None:
        self._left = left
        self._log = log
        self._begun = anyio.Event()
        self._is_over = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it meanwhile, should it take long."""
        self._begun.set()
        try:
            yield
        finally:
            self._is_over = True

    async def run(self) -> None:
        """Show what is to be shown, until it is over."""
        await self._begun.wait()
        frames = self._left()
        await anyio.sleep(_PATIENCE_S)
        bar = None if self._is_over else _open_bar()
        try:
            while not self._is_over:
                await self._show(bar, frames)
        finally:
            if bar:
                bar.stop()

    async def _show(self, bar: Progress | None, frames: int) -> None:
        left = self._left()
        if bar:
            task = bar.task_ids[0] if bar.task_ids else bar.add_task("Finishing clips")
            bar.update(task, total=max(frames, left), completed=max(frames, left) - left)
            bar.refresh()
            await anyio.sleep(_REDRAW_S)
        else:
            self._log.info("recorder.finishing", frames_left=left)
            await anyio.sleep(_LOG_S)


def _open_bar() -> Progress | None:
    """Return a bar on the terminal; None where there is none, or somebody else draws on it."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.errors import LiveError
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("(Ctrl-C: drop the rest)"),
    )
    # Drawn when told to: a thread of its own would keep a lock that an interruption may leave locked.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    try:
        bar.start()
    except LiveError:
        return None
    return bar
