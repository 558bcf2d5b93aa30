"""`stepreel ps`: which recording services run on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .printable import printable

if TYPE_CHECKING:
    from ..background import RunningService

_PIPE_WIDTH = 200
"""Columns of the table where nobody says how wide the screen is."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each service, one a line.")
def ps(*, as_json: bool) -> None:
    """List the recording services on this machine: which folder each records into, and what it has left to do.

    A recording service draws and encodes what one training process captures, and goes on by itself when training ends.
    While training records, how much is left is not known; a recorder that is embedded in training has no service.
    """
    from ..background import running_services

    services = running_services()
    if as_json:
        for service in services:
            click.echo(json.dumps(_to_json(service)))
    elif services:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _PIPE_WIDTH
        console.print(_table(services))
    else:
        click.echo("No recording service runs here.")


def _to_json(service: RunningService) -> dict[str, object]:
    return {
        "pid": service.pid,
        "folder": str(service.folder),
        "started_at": service.started_at.isoformat(timespec="seconds"),
        "training": "runs" if service.is_training else "ended",
        "frames_left": service.frames_left,
        "clips_left": service.clips_left,
    }


def _table(services: Iterable[RunningService]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("pid", justify="right")
    for heading in ("since", "training", "left"):
        table.add_column(heading, no_wrap=True)
    table.add_column("folder", overflow="fold")
    for service in services:
        since = service.started_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        training = "runs" if service.is_training else "ended"
        table.add_row(str(service.pid), since, training, _left(service), Text(printable(str(service.folder))))
    return table


def _left(service: RunningService) -> str:
    """Return what a service has left to do, such as `12 frames, 1 clip`."""
    if service.frames_left is None or service.clips_left is None:
        return "recording"
    return f"{counted(service.frames_left, 'frame')}, {counted(service.clips_left, 'clip')}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: `1 frame`, `2 frames`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
