"""Renderers as plain data, and made again from it."""

from __future__ import annotations

import numpy as np
import pytest

from stepreel.backends.archives import make_renderer
from stepreel.backends.camera import Camera
from stepreel.backends.synthetic import SyntheticBackend, read_step
from stepreel.errors import BackendError
from stepreel.interfaces import ArchivableRenderer, RendererArchive

SNAPSHOT = np.frombuffer((77).to_bytes(8, "little"), np.uint8)


def archive() -> RendererArchive:
    renderer = SyntheticBackend(snapshot=True).open(width=None, height=None, worker_device="auto").renderer
    assert isinstance(renderer, ArchivableRenderer)
    return renderer.to_archive()


def test_a_renderer_made_again_draws_the_same_in_the_size_asked_for() -> None:
    again = make_renderer(archive())
    larger = make_renderer(archive(), width=640, height=360)
    for renderer, shape in ((again, (180, 320, 3)), (larger, (360, 640, 3))):
        renderer.open()
        picture = renderer.render(SNAPSHOT)
        assert picture.shape == shape
        assert read_step(picture) == 77


def test_what_nobody_draws_is_refused_by_name() -> None:
    with pytest.raises(BackendError, match=r"'slides'.*synthetic"):
        make_renderer(RendererArchive(kind="slides", arrays={}, settings={}))


def test_a_damaged_archive_is_refused() -> None:
    with pytest.raises(BackendError, match=r"damaged.*width"):
        make_renderer(RendererArchive(kind="synthetic", arrays={}, settings={"height": 180}))


def test_a_camera_for_what_has_none_is_refused() -> None:
    with pytest.raises(BackendError, match="camera"):
        make_renderer(archive(), camera=Camera())
