"""`stepreel recover`: repairs what a killed training run left."""

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
from .render import drawing_bar, prepare_device

if TYPE_CHECKING:
    from ..storage.recovery import Recovery, RepairedClip

_PIPE_WIDTH = 200
"""Columns of the table where nobody says how wide the screen is."""
_NOT_REPAIRED = 1
_FRAMES_LOST = 3


@click.command()
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--dry-run", is_flag=True, help="Tell what would be repaired, and change nothing.")
@click.option("--no-draw", is_flag=True, help="Leave snapshots as they are, for stepreel render.")
@click.option("--device", default="cpu", show_default=True, help="Where to draw: cpu, cuda or cuda:<n>.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each folder, one a line.")
@click.pass_context
def recover(
    ctx: click.Context, folders: tuple[Path, ...], *, dry_run: bool, no_draw: bool, device: str, as_json: bool
) -> None:
    """Repair what a killed training run left in its output folders.

    Segments left open are closed, every clip's manifest says afterwards what there is, and frames of which there are
    snapshots are drawn. A folder that is still recorded into is left alone. Nothing that holds a picture is deleted,
    and a second call changes nothing.

    Exit 0: all is well, or repaired without a frame lost, or still being recorded. 3: repaired, and a repaired clip
    lacks frames or was cut short, or snapshots can't be drawn here. 1: something can't be repaired, and says why; the
    rest was.
    """
    from ..storage.recovery import recover as recover_clips

    recoveries = []
    for folder in folders:
        recovery = recover_clips(folder, dry_run=dry_run)
        if not (dry_run or no_draw):
            recovery = _drawn(recovery, device)
        recoveries.append(recovery)
        if as_json:
            click.echo(json.dumps(_to_json(recovery)))
        else:
            _print(recovery, dry_run=dry_run)
    ctx.exit(_status(recoveries))


def _drawn(recovery: Recovery, device: str) -> Recovery:
    """Draw what is left to be drawn; only where there is any does it take what draws."""
    if not any(recovery.folder.glob("*.snapshots.npz")):
        return recovery
    from ..finishing_clips import finish_clips

    prepare_device(device)
    with drawing_bar("Drawing snapshots") as progress:
        return finish_clips(recovery, progress=progress)


def _status(recoveries: Iterable[Recovery]) -> int:
    recoveries = tuple(recoveries)
    if any(recovery.problems for recovery in recoveries):
        return _NOT_REPAIRED
    is_whole = all(clip.is_whole for recovery in recoveries for clip in recovery.repaired)
    return 0 if is_whole and not any(recovery.undrawn for recovery in recoveries) else _FRAMES_LOST


def _print(recovery: Recovery, *, dry_run: bool) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    if recovery.repaired:
        console.print(_table(recovery.repaired))
    for name in recovery.removed:
        console.print(Text(printable(f"{name}: held nothing, removed")))
    for problem in (*recovery.problems, *recovery.undrawn):
        click.echo(printable(problem), err=True)
    console.print(Text(printable(f"{recovery.folder}: {_outcome(recovery, dry_run=dry_run)}")))


def _outcome(recovery: Recovery, *, dry_run: bool) -> str:
    if recovery.is_recording:
        return "still being recorded, left alone"
    clips = len(recovery.repaired) + recovery.sound_count
    done = "to repair" if dry_run else "repaired"
    line = f"{clips} {'clip' if clips == 1 else 'clips'}, {len(recovery.repaired)} {done}"
    return f"{line}, {len(recovery.problems)} left as they are" if recovery.problems else line


def _table(repaired: Iterable[RepairedClip]) -> Table:
    table = Table("clip", "state", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    table.add_column("frames", justify="right")
    table.add_column("dropped")
    table.add_column("what was done", overflow="fold")
    for one in repaired:
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
            for one in recovery.repaired
        ],
        "removed": recovery.removed,
        "problems": recovery.problems,
        "undrawn": recovery.undrawn,
    }
