"""`stepreel render`: draws the snapshots that were kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..errors import BackendError, EncodeError, OutputError
from .printable import printable

if TYPE_CHECKING:
    from ..backends.camera import Camera
    from ..rendering import RenderedClip, RenderOptions

_Point = tuple[float, float, float]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clip", "names", multiple=True, metavar="NAME", help="Render this clip only; may be given again.")
@click.option("--eye", nargs=3, type=float, help="Position of another camera [m].")
@click.option("--lookat", nargs=3, type=float, help="The point in the middle of its picture [m].")
@click.option("--fov", type=float, help="Its vertical field of options [degrees].")
@click.option("--width", type=click.IntRange(1), help="Another width of the pictures [pixels].")
@click.option("--height", type=click.IntRange(1), help="Another height of the pictures [pixels].")
@click.option("--save-as", metavar="NAME", help="Names the new clips that another camera or size gives.")
@click.option("--codec", help="An encoder's name in FFmpeg, or auto; by default as recorded.")
@click.option("--device", default="cpu", show_default=True, help="Where to draw: cpu, cuda or cuda:<n>.")
@click.pass_context
def render(
    ctx: click.Context,
    folder: Path,
    *,
    names: tuple[str, ...],
    eye: _Point | None,
    lookat: _Point | None,
    fov: float | None,
    width: int | None,
    height: int | None,
    save_as: str | None,
    codec: str | None,
    device: str,
) -> None:
    """Draw and encode the snapshots that were kept in an output folder.

    A clip gets the frames that it lacks, and a second call draws nothing. With another camera or size, each clip is
    drawn anew, into a clip of its own, which --save-as names. The snapshots stay: delete <clip>.snapshots.npz when
    they are of no more use.

    Exit 0: every frame that was kept is in a file. 1: some are not, and why is said.
    """
    from ..rendering import RenderOptions, clips_to_render

    prepare_device(device)
    options = RenderOptions(camera=_camera(eye, lookat, fov), width=width, height=height, codec=codec)
    if options.gives_other_pictures and save_as is None:
        save_as = "camera" if options.camera else "size"
    found = names or clips_to_render(folder)
    if not found:
        click.echo(printable(f"{folder}: no snapshots are kept here"))
    is_whole = [_render(folder, name, options, save_as) for name in found]
    ctx.exit(0 if all(is_whole) else 1)


def _camera(eye: _Point | None, lookat: _Point | None, fov: float | None) -> Camera | None:
    from ..backends.camera import Camera

    if eye is None and lookat is None and fov is None:
        return None
    default = Camera()
    return Camera(eye=eye or default.eye, lookat=lookat or default.lookat, fov=fov or default.fov)


def prepare_device(device: str) -> None:
    """Have OpenGL and CUDA find the device; both look at the environment when they are first used."""
    from ..backends.render_device import choose_render_device

    os.environ.update(choose_render_device(device, None).environment)


@contextmanager
def drawing_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on the terminal, if there is one; yields what hears how many frames are drawn, of how many."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(title), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _render(folder: Path, name: str, options: RenderOptions, save_as: str | None) -> bool:
    """Render one clip, and say what became of it; return whether every frame is there."""
    from ..rendering import render_clip

    with drawing_bar(name) as progress:
        try:
            rendered = render_clip(folder, name, options=options, save_as=save_as, progress=progress)
        except (BackendError, EncodeError, OutputError) as exc:
            click.echo(printable(f"{name}: {exc}"), err=True)
            return False
    click.echo(printable(_outcome(rendered)))
    for failure in rendered.failures:
        click.echo(printable(f"{name}: {failure}"), err=True)
    return not (rendered.failures or rendered.left)


def _outcome(rendered: RenderedClip) -> str:
    clip = rendered.clip
    line = f"{clip.name}: {rendered.drawn} frames drawn, {clip.frames.encoded} of {clip.frames.requested} there"
    if rendered.left:
        line += f"; {rendered.left} kept between frames of a closed segment, where no room is: use --save-as"
    return line
