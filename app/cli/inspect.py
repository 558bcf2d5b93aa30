"""`stepreel inspect`: whether clips are what their manifests say."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import OutputError
from .printable import printable


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.pass_context
def inspect(ctx: click.Context, path: Path) -> None:
    """Decode the clips of a folder, or one clip by its manifest or a segment, and hold them against their manifests.

    One line for each difference, and exit 1, where there is any.
    """
    from ..storage.inspection import inspect as inspect_clips

    inspection = inspect_clips(path)
    if not inspection.clips:
        raise OutputError(f"{path}: no clip there; a clip is a .json manifest and its .mp4 segments")
    for note in inspection.notes:
        click.echo(f"note: {printable(note)}", err=True)
    for difference in inspection.differences:
        click.echo(printable(difference))
    if inspection.differences:
        ctx.exit(1)
    count = len(inspection.clips)
    click.echo("1 clip, as its manifest says" if count == 1 else f"{count} clips, all as their manifests say")
