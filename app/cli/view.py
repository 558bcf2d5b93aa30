"""`stepreel view`: clips in a browser, while they are recorded."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path

import click

from .printable import printable

_NICE = 10
"""Decoding pictures should not take processor time from training."""


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="On 127.0.0.1; by default one that is free.")
@click.option("--open/--no-open", "opens", default=False, show_default=True, help="Open it in a browser.")
def view(folder: Path, *, port: int, opens: bool) -> None:
    """Show a folder of clips in a browser, also while it is recorded into. Ends with Ctrl-C.

    Only this machine can reach it. From another one: ssh -L 8000:127.0.0.1:PORT, and then http://localhost:8000/.
    """
    from ..gallery.folder import refuse_wrong_folder
    from ..gallery.server import GalleryServer

    refuse_wrong_folder(folder)
    os.nice(_NICE)
    with GalleryServer(folder, port) as server:
        click.echo(printable(f"{folder} is shown at {server.url}  (Ctrl-C ends it)"))
        if opens:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo()
