"""Showing on a terminal how far a recorder is that is being closed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE_S = 1.0
"""Closing that takes no longer is not worth a word."""
LOOK_S = 0.2
"""How often whoever waits should call `show` [s]."""


class ClosingBar:
    """A bar that appears where closing takes long, and where there is a terminal. Belongs to whoever waits.

    Args:
        frames_left: Returns how many frames are neither encoded nor dropped.
    """

    def __init__(self, frames_left: Callable[[], int]) -> None:
        self._frames_left = frames_left
        self._begun_s = time.monotonic()
        self._frames = frames_left()
        self._bar: Progress | None = None
        self._is_refused = not sys.stderr.isatty()

    def show(self) -> None:
        """Show what is left."""
        if self._bar is None and not self._is_refused and time.monotonic() - self._begun_s >= _PATIENCE_S:
            self._bar = _open_bar()
            self._is_refused = self._bar is None
        if self._bar:
            left = self._frames_left()
            task = self._bar.task_ids[0] if self._bar.task_ids else self._bar.add_task("Finishing clips")
            total = max(self._frames, left)
            self._bar.update(task, total=total, completed=total - left)
            self._bar.refresh()

    def close(self) -> None:
        """Take it away."""
        if self._bar:
            self._bar.stop()


@contextmanager
def closing_bar(frames_left: Callable[[], int]) -> Iterator[ClosingBar]:
    """Yield a bar, and take it away afterwards."""
    bar = ClosingBar(frames_left)
    try:
        yield bar
    finally:
        bar.close()


def _open_bar() -> Progress | None:
    """Return a bar on the terminal; None where somebody else draws on it."""
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
