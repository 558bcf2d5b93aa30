"""A page that stands by itself: `index.html` beside the clips."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from ..storage.files import open_ordinary
from .folder import FolderIndex, FolderReader, FoundClip
from .page import GENERATOR, Sources, to_page
from .strips import Pictures, make_pictures

PAGE_FILE = "index.html"
_PICTURES_S = 60.0
"""Time after which the pictures of further clips are left out [s]."""
_MOST_PICTURES_NBYTES = 48 * 2**20
_HEAD_NBYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """A page that was written."""

    path: Path
    index: FolderIndex
    pictured: int
    """Clips that are shown with pictures."""


def write_gallery(folder: Path, *, pictures_s: float = _PICTURES_S) -> Gallery:
    """Write `index.html` into a folder of clips, or replace the one that was written before.

    Args:
        folder: Of clips.
        pictures_s: Time that may be spent on decoding pictures [s]; the latest clips get theirs first.

    Raises:
        OutputError: the folder can't be read or written, or has an `index.html` of somebody else.
    """
    folder = folder.resolve()
    _refuse_foreign(folder / PAGE_FILE)
    index = FolderReader(folder).read()
    pictures = _make_all(index, pictures_s)
    page = to_page(index, _embedded(pictures), is_live=False)
    _replace(folder / PAGE_FILE, page)
    return Gallery(path=folder / PAGE_FILE, index=index, pictured=len(pictures))


def _make_all(index: FolderIndex, limit_s: float) -> dict[str, Pictures]:
    """Decode pictures until time or room is over; the latest clips first."""
    deadline = time.monotonic() + limit_s

    def make(found: FoundClip) -> Pictures | None:
        return make_pictures(index.folder, found) if time.monotonic() < deadline else None

    made: dict[str, Pictures] = {}
    room = _MOST_PICTURES_NBYTES
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as threads:
        for found, pictures in zip(index.clips, threads.map(make, index.clips), strict=True):
            if pictures and (room := room - len(pictures.poster) - len(pictures.strip)) > 0:
                made[found.clip.name] = pictures
    return made


def _embedded(pictures: Mapping[str, Pictures]) -> Callable[[FoundClip], Sources | None]:
    def find(found: FoundClip) -> Sources | None:
        made = pictures.get(found.clip.name)
        return Sources(poster=_data(made.poster), strip=_data(made.strip)) if made else None

    return find


def _data(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _refuse_foreign(path: Path) -> None:
    try:
        with open_ordinary(path) as file:
            head = file.read(_HEAD_NBYTES)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise OutputError(f"{path} can't be replaced: {exc.strerror or exc}; move it away") from exc
    if f'content="{GENERATOR}"'.encode() not in head:
        raise OutputError(f"{path} was not written by stepreel, and is not replaced; move it away")


def _replace(path: Path, page: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        with open(draft, "x", encoding="utf-8", errors="replace") as file:
            file.write(page)
        draft.replace(path)
    except OSError as exc:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise OutputError(f"{path} can't be written: {exc.strerror or exc}") from exc
