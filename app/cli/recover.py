"""`stepreel recover`: mends what a killed training run left."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .clip_table import dropped_by_cause
from .printable import printable

if TYPE_CHECKING:
    from ..storage.recovery import MendedClip, Recovery

_PIPE_WIDTH = 200
"""Columns of the table where nobody says how wide the screen is."""
_NOT_MENDED = 1
_FRAMES_LOST = 3


@click.command()
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each folder, one a line.")
@click.pass_context
def recover(ctx: click.Context, folders: tuple[Path, ...], *, dry_run: bool, as_json: bool) -> None:
    """Mend what a killed training run left in its output folders.

    Segments left open are closed, and every clip's manifest says afterwards what there is. A folder that is still
    recorded into is left alone. Nothing that holds a picture is deleted, and a second call changes nothing.

    Exit 0: all is well, or mended without a frame lost, or still being recorded. 3: mended, and a mended clip lacks
    frames or was cut short. 1: something can't be mended, and says why; the rest was.
    """
    from ..storage.recovery import recover as recover_clips

    recoveries = []
    for folder in folders:
        recovery = recover_clips(folder, dry_run=dry_run)
        recoveries.append(recovery)
        if as_json:
            click.echo(json.dumps(_to_json(recovery)))
        else:
            _print(recovery, dry_run=dry_run)
    ctx.exit(_status(recoveries))


def _status(recoveries: Iterable[Recovery]) -> int:
    recoveries = tuple(recoveries)
    if any(recovery.problems for recovery in recoveries):
        return _NOT_MENDED
    return _FRAMES_LOST if any(not clip.is_whole for recovery in recoveries for clip in recovery.mended) else 0


def _print(recovery: Recovery, *, dry_run: bool) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    if recovery.mended:
        console.print(_table(recovery.mended))
    for name in recovery.removed:
        console.print(Text(printable(f"{name}: held nothing, removed")))
    for problem in recovery.problems:
        click.echo(printable(problem), err=True)
    console.print(Text(printable(f"{recovery.folder}: {_outcome(recovery, dry_run=dry_run)}")))


def _outcome(recovery: Recovery, *, dry_run: bool) -> str:
    if recovery.is_recording:
        return "still being recorded, left alone"
    clips = len(recovery.mended) + recovery.sound_count
    line = f"{clips} {'clip' if clips == 1 else 'clips'}, {len(recovery.mended)} {'to mend' if dry_run else 'mended'}"
    return f"{line}, {len(recovery.problems)} left as they are" if recovery.problems else line


def _table(mended: Iterable[MendedClip]) -> Table:
    table = Table("clip", "state", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    table.add_column("frames", justify="right")
    table.add_column("dropped")
    table.add_column("what was done", overflow="fold")
    for one in mended:
        clip = one.clip
        cells = (clip.name, clip.state, str(clip.frames.encoded), dropped_by_cause(clip.frames))
        table.add_row(*(Text(printable(cell)) for cell in (*cells, "; ".join(one.actions))))
    return table


def _to_json(recovery: Recovery) -> dict[str, Any]:
    return {
        "folder": str(recovery.folder),
        "recording": recovery.is_recording,
        "sound": recovery.sound_count,
        "mended": [
            {
                "clip": one.clip.name,
                "state": one.clip.state,
                "whole": one.is_whole,
                "end_step": one.clip.end_step,
                "requested": one.clip.frames.requested,
                "encoded": one.clip.frames.encoded,
                "dropped": dict(one.clip.frames.dropped),
                "segments": [asdict(segment) for segment in one.clip.segments],
                "actions": one.actions,
            }
            for one in recovery.mended
        ],
        "removed": recovery.removed,
        "problems": recovery.problems,
    }
