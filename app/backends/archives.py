"""Renderers made again from archives: elsewhere, later, or with another camera."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..errors import BackendError
from ..interfaces import Renderer, RendererArchive
from .camera import Camera

MAKERS = {
    "newton": ".newton.renderer",
    "mujoco": ".mujoco.renderer",
    "sensor": ".isaaclab.sensor",
    "synthetic": ".synthetic",
}
"""Kinds of archives, and the module whose `from_archive` makes a renderer of one."""


def make_renderer(
    archive: RendererArchive, *, camera: Camera | None = None, width: int | None = None, height: int | None = None
) -> Renderer:
    """Make a renderer of an archive, which may come from anybody and is checked.

    Args:
        archive: The renderer as plain data.
        camera: The camera of the pictures; None: as recorded.
        width: Width of the pictures [pixels]; None: as recorded.
        height: Height of the pictures [pixels]; None: as recorded.

    Raises:
        BackendError: nothing here draws this kind, the archive is not whole, or its camera can't be moved.
    """
    if archive.kind not in MAKERS:
        raise BackendError(f"snapshots of kind {archive.kind!r} can't be drawn; known: {', '.join(sorted(MAKERS))}")
    from_archive: Callable[..., Any] = import_module(MAKERS[archive.kind], __package__).from_archive
    try:
        renderer: Renderer = from_archive(archive, camera=camera, width=width, height=height)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as exc:
        raise BackendError(f"the archive of kind {archive.kind!r} is damaged: {exc!r}") from exc
    return renderer
