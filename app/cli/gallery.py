"""`stepreel gallery`: a page of clips that stands by itself."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .printable import printable


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
def gallery(folder: Path) -> None:
    """Write index.html into a folder of clips: open it in a browser to look at them.

    It needs no server, no network and nothing but the clips beside it. An earlier one is replaced.
    """
    from ..gallery.folder import refuse_wrong_folder
    from ..gallery.writing import write_gallery

    refuse_wrong_folder(folder)
    screen = Console(stderr=True)
    with screen.status("Decoding pictures ..."):
        written = write_gallery(folder)
    for line in written.index.unreadable:
        click.echo(f"note: {printable(line)}", err=True)
    count = len(written.index.clips)
    without = count - written.pictured
    note = f", {without} without pictures" if without else ""
    click.echo(printable(f"{written.path}: {'1 clip' if count == 1 else f'{count} clips'}{note}"))
