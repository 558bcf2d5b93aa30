"""`stepreel wait`: until nobody records into a folder any more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .printable import printable
from .ps import counted

if TYPE_CHECKING:
    from ..background import Recording

_TIMED_OUT = 1


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most; else as long as it takes.")
@click.pass_context
def wait(ctx: click.Context, folder: Path, *, timeout: float | None) -> None:
    """Wait until nobody records into a folder any more: until training has ended, and its clips are finished.

    Exit 0: nobody does. 1: somebody still did when the time was over.
    """
    from ..background import recording_into, wait_until_finished

    if not recording_into(folder).is_recorded:
        click.echo(printable(f"{folder}: nobody records into it, there is nothing to wait for"))
        return
    with _Bar() as bar:
        is_finished = wait_until_finished(folder, timeout_s=timeout, watch=bar.show)
    if is_finished:
        click.echo(printable(f"{folder}: nobody records into it any more"))
        return
    click.echo(printable(f"{folder}: still recorded into after {timeout:g} s{bar.left}"), err=True)
    ctx.exit(_TIMED_OUT)


class _Bar:
    """How far it is, on a terminal."""

    def __init__(self) -> None:
        self.left = ""
        """What is left, as far as it is known."""
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("Recording", total=None, left="")
        self._most = 0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def show(self, recording: Recording) -> None:
        """Show what is left."""
        left = recording.frames_left
        if left is None:
            return
        self._most = max(self._most, left)
        words = f"{counted(left, 'frame')} left"
        self.left = f", {words}"
        self._progress.update(
            self._task, description="Finishing clips", total=self._most, completed=self._most - left, left=words
        )
