"""The renderers of Newton snapshots: pickled by the training process, opened and used in a worker."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any, ClassVar, Protocol

import numpy as np

from ...errors import BackendError, RendererUnavailableError
from ...interfaces import RendererArchive
from ..camera import Camera
from .archive import spec_of, to_archive
from .gl_painter import GlPainter
from .render_spec import Channel, NewtonRenderSpec, Pixels, moved
from .scene_instance import SceneInstance
from .warp_painter import WarpPainter

_log = logging.getLogger(__name__)

_DARK = 24


class _Painter(Protocol):
    """Paints one scene, in the size of a tile."""

    instance: SceneInstance

    def paint(self, state: Any, camera: Camera, target: Pixels) -> None: ...

    def close(self) -> None: ...


class _TileRenderer:
    """Draws a picture of one tile or of several."""

    _painter: ClassVar[type[GlPainter] | type[WarpPainter]]

    def __init__(self, spec: NewtonRenderSpec) -> None:
        self.spec = spec
        self._painters: list[_Painter] = []
        self._opened = ExitStack()

    def open(self) -> None:
        """Load the scenes, and a painter for each.

        Raises:
            BackendError: a scene can't be loaded.
            RendererUnavailableError: nothing of this kind draws here.
        """
        # Dark where the grid has room for more tiles than there are.
        self._picture = np.full((self.spec.height, self.spec.width, 3), _DARK, dtype=np.uint8)
        with ExitStack() as stack:
            painters: list[_Painter] = []
            for scene in range(len(self.spec.tiled_scene.scenes)):
                painters.append(self._painter(self.spec, scene))
                stack.callback(painters[-1].close)
            self._painters, self._opened = painters, stack.pop_all()

    def render(self, snapshot: Pixels) -> Pixels:
        """See `stepreel.interfaces.Renderer.render`.

        Raises:
            CaptureError: a body or particle has no finite position, or the snapshot is of another scene.
        """
        if not self._painters:
            raise BackendError("asked to render before the renderer was opened; call open first")
        decoded = self.spec.decode(snapshot)
        for tile, place in zip(self.spec.tiled_scene.tiles, self.spec.tile_places(), strict=True):
            painter = self._painters[tile.scene]
            bodies, particles = decoded.bodies[tile.body_rows], decoded.particles[tile.particle_rows]
            state = painter.instance.set(bodies, particles, tile.origin)
            painter.paint(state, moved(decoded.camera, tile.origin), self._picture[place])
        return self._picture

    def close(self) -> None:
        """Release the painters and their scenes."""
        self._painters = []
        self._opened.close()

    def to_archive(self) -> RendererArchive:
        """See `stepreel.interfaces.ArchivableRenderer.to_archive`."""
        return to_archive(self.spec)


class GlRenderer(_TileRenderer):
    """Draws with Newton's OpenGL viewer, without a window, over EGL."""

    name = "newton_gl"
    _painter = GlPainter


class WarpRenderer(_TileRenderer):
    """Draws with Newton's ray tracer, without OpenGL; opening it the first time compiles kernels, for tens of seconds.

    Its pictures are plainer than the viewer's; it also shows depth, normals and a colour for each shape.
    """

    name = "newton_warp"
    _painter = WarpPainter


class FallbackRenderer:
    """Draws with OpenGL where it opens, else with the ray tracer."""

    def __init__(self, spec: NewtonRenderSpec) -> None:
        self.spec = spec
        self._candidates: tuple[GlRenderer | WarpRenderer, ...] = (GlRenderer(spec), WarpRenderer(spec))
        self._opened: GlRenderer | WarpRenderer | None = None

    @property
    def name(self) -> str:
        """The renderer that draws: "newton_gl" or "newton_warp"."""
        return (self._opened or self._candidates[0]).name

    def open(self) -> None:
        """Open the first renderer that can be.

        Raises:
            RendererUnavailableError: none can; says why for each.
        """
        refusals = []
        for candidate in self._candidates:
            try:
                candidate.open()
            except RendererUnavailableError as exc:
                _log.warning("newton renderer %s can't be opened: %s", candidate.name, exc)
                refusals.append(exc)
            else:
                self._opened = candidate
                return
        raise RendererUnavailableError("; ".join(map(str, refusals))) from refusals[0]

    def render(self, snapshot: Pixels) -> Pixels:
        """See `stepreel.interfaces.Renderer.render`."""
        if self._opened is None:
            raise BackendError("asked to render before the renderer was opened; call open first")
        return self._opened.render(snapshot)

    def close(self) -> None:
        """Close the renderer that was opened."""
        if self._opened is not None:
            self._opened.close()

    def to_archive(self) -> RendererArchive:
        """See `stepreel.interfaces.ArchivableRenderer.to_archive`."""
        return to_archive(self.spec)


def from_archive(
    archive: RendererArchive, *, camera: Camera | None, width: int | None, height: int | None
) -> GlRenderer | WarpRenderer | FallbackRenderer:
    """See `stepreel.backends.archives.make_renderer`. Draws on the CPU.

    Raises:
        BackendError: the archive is not whole.
    """
    return make_renderer(spec_of(archive, camera=camera, width=width, height=height))


def make_renderer(spec: NewtonRenderSpec) -> GlRenderer | WarpRenderer | FallbackRenderer:
    """Return the renderer that a spec asks for; with "auto" the first one that opens."""
    if spec.channel is not Channel.RGB or spec.renderer == "warp":
        return WarpRenderer(spec)
    return GlRenderer(spec) if spec.renderer == "gl" else FallbackRenderer(spec)
