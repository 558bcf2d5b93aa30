"""Snapshots that no worker has drawn -> one file beside the clip's manifest, to be drawn later.

The file is an uncompressed NPZ archive, which `numpy.load` reads without unpickling anything:

    about            JSON text: the clip, how to encode it, the kind of renderer and its settings
    model/<name>     the renderer's arrays
    steps/<step>     one snapshot, uint8, `[nbytes]`
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..clip import SnapshotFile
from ..errors import OutputError
from ..interfaces import RendererArchive
from .files import PART_SUFFIX, open_ordinary, sync_folder

SNAPSHOTS_SUFFIX = ".snapshots.npz"
SCHEMA = 1
_MOST_ABOUT_NBYTES = 2**20
_MOST_NBYTES = 2**32
"""Bytes of a file and of an array in it; more is no snapshot file of ours."""
_MOST_PIXELS = 2**27
"""A picture with more is refused before there is memory for it."""
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
"""A local file header of the ZIP format (APPNOTE 4.3.7)."""
_LOCAL_SIGNATURE = b"PK\x03\x04"
_SIZES_FOLLOW = 0x08
"""Flag of a member whose header was not filled in."""
# `zipfile` calls what is encrypted, or of another version than it knows, a `RuntimeError`.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotsAbout:
    """What a snapshot file says of itself."""

    clip: str
    start_step: int
    """The step shown at `pts` 0 of the clip."""
    frame_stride: int
    fps: float
    encoding: Mapping[str, Any]
    """What `EncodeSettings.to_json` gives."""
    kind: str
    """See `RendererArchive.kind`."""
    settings: Mapping[str, Any]
    """See `RendererArchive.settings`."""


class SnapshotWriter:
    """Writes the snapshots of one clip, in any order. For one thread at a time; blocks.

    The file is called `<clip>.snapshots.npz.part` until it is closed. What `append` returned from survives the
    process.

    Raises:
        OutputError: the file can't be made.
    """

    def __init__(self, folder: Path, about: SnapshotsAbout, archive: RendererArchive) -> None:
        self._final = folder / f"{about.clip}{SNAPSHOTS_SUFFIX}"
        self._part = self._final.with_name(self._final.name + PART_SUFFIX)
        self._count = 0
        try:
            self._part.unlink(missing_ok=True)
            self._file = open(self._part, "xb+")
            self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
            self._add("about", np.array(json.dumps(_about_to_json(about))))
            for name, array in archive.arrays.items():
                self._add(f"model/{name}", array)
            self._file.flush()
        except (OSError, ValueError) as exc:
            raise OutputError(f"{self._part} can't be written: {getattr(exc, 'strerror', None) or exc}") from exc

    def append(self, snapshots: Iterable[tuple[int, bytes]]) -> None:
        """Write snapshots, each with its step.

        Raises:
            OutputError: they can't be written, or not all of them.
        """
        try:
            for step, data in snapshots:
                self._add(f"steps/{step}", np.frombuffer(data, np.uint8))
                self._count += 1
            self._file.flush()
        except OSError as exc:
            raise OutputError(f"{self._part} can't be written: {exc.strerror or exc}") from exc

    def close(self) -> SnapshotFile:
        """Finish the file, bring it to the disk, and return what it holds.

        Raises:
            OutputError: it stays a part, whose snapshots `salvage_snapshots` finds.
        """
        try:
            self._zip.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            nbytes = os.fstat(self._file.fileno()).st_size
            self._file.close()
            os.replace(self._part, self._final)
            sync_folder(self._final.parent)
        except OSError as exc:
            raise OutputError(f"{self._final} can't be written: {exc.strerror or exc}") from exc
        return SnapshotFile(file=self._final.name, frames=self._count, nbytes=nbytes)

    def abandon(self) -> None:
        """Let go of the file and leave it as it is."""
        self._zip.fp = None  # Else its garbage would write a directory into a file that has no room for it.
        with suppress(OSError):
            self._file.close()

    def _add(self, name: str, array: NDArray[Any]) -> None:
        data = io.BytesIO()
        npy.write_array(data, np.asanyarray(array), allow_pickle=False)
        # No date, so that the same clip gives the same file.
        self._zip.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getbuffer())


class SnapshotReader:
    """What a snapshot file holds; it may come from anybody. Use it as a context manager.

    Attributes:
        about: What the file says of itself.
        steps: The steps whose snapshots it holds, ascending.

    Raises:
        OutputError: it can't be read, or is no snapshot file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open_ordinary(path)
        except OSError as exc:
            raise OutputError(f"{path} can't be read: {exc.strerror or exc}") from exc
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._members = {one.filename: one for one in self._zip.infolist()}
            self.about = _about_from_json(str(self._read("about", _MOST_ABOUT_NBYTES)[()]))
            self.steps = sorted(_steps_of(self._members))
        except (*_DAMAGED, OutputError) as exc:
            self._file.close()
            raise OutputError(f"{path} is no file of snapshots: {_line(exc)}") from exc

    def __enter__(self) -> SnapshotReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def archive(self) -> RendererArchive:
        """Return what the renderer is made of.

        Raises:
            OutputError: an array is damaged.
        """
        names = [name for name in self._members if name.startswith("model/")]
        arrays = {name.removeprefix("model/").removesuffix(".npy"): self._array(name) for name in names}
        return RendererArchive(kind=self.about.kind, arrays=arrays, settings=self.about.settings)

    def snapshot(self, step: int) -> NDArray[np.uint8]:
        """Return the snapshot of one of `steps`, shape `[nbytes]`, read-only.

        Raises:
            OutputError: it is damaged.
        """
        array = self._array(f"steps/{step}.npy")
        if array.dtype != np.uint8 or array.ndim != 1:
            raise OutputError(f"{self._path}: the snapshot of step {step} is {array.dtype} {list(array.shape)}")
        return array

    def _array(self, member: str) -> NDArray[Any]:
        try:
            return self._read(member.removesuffix(".npy"), _MOST_NBYTES)
        except _DAMAGED as exc:
            raise OutputError(f"{self._path}: {member} is damaged: {_line(exc)}") from exc

    def _read(self, name: str, most_nbytes: int) -> NDArray[Any]:
        member = self._members[f"{name}.npy"]
        # Stored as it is, an array is no larger than its file: nothing can swell.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > most_nbytes:
            raise ValueError(f"{name} is compressed, or larger than {most_nbytes} bytes")
        return _parse_array(self._zip.read(member))


def salvage_snapshots(folder: Path, part_name: str) -> SnapshotFile | None:
    """Close a snapshot file whose process was killed, with every snapshot that is whole in it.

    Returns:
        What it holds now; None where there was no snapshot in it: it is removed.

    Raises:
        OutputError: it can't be read, or the closed one not written.
    """
    part = folder / part_name
    draft = folder / f"{part_name}.salvage"
    try:
        draft.unlink(missing_ok=True)
        with open_ordinary(part) as file, open(draft, "xb") as target:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as closed:
                count = 0
                for name, data in _whole_members(file.read(_MOST_NBYTES)):
                    closed.writestr(zipfile.ZipInfo(name), data)
                    count += name.startswith("steps/")
            target.flush()
            os.fsync(target.fileno())
            nbytes = target.tell()
        final = folder / part_name.removesuffix(PART_SUFFIX)
        if count and os.path.lexists(final):
            raise OutputError(f"{part} can't be closed: {final.name} is there; move it away")
        if count:
            os.replace(draft, part)  # Whoever is interrupted here finds a part with the same members.
            os.rename(part, final)
        else:
            part.unlink()
        sync_folder(folder)
    except OSError as exc:
        raise OutputError(f"{part} can't be closed: {exc.strerror or exc}") from exc
    finally:
        draft.unlink(missing_ok=True)
    return SnapshotFile(file=final.name, frames=count, nbytes=nbytes) if count else None


def measure_snapshots(path: Path) -> SnapshotFile:
    """Return what a closed snapshot file holds. Raises `OutputError` where it can't be read."""
    with SnapshotReader(path) as reader:
        return SnapshotFile(file=path.name, frames=len(reader.steps), nbytes=os.lstat(path).st_size)


def _whole_members(data: bytes) -> Iterator[tuple[str, memoryview]]:
    """Yield name and content of the members of an archive without a directory, up to the first that is not whole."""
    place = 0
    while data[place : place + 4] == _LOCAL_SIGNATURE and len(data) - place >= _LOCAL.size:
        *_, flags, method, _time, _date, crc, size, _full, name_nbytes, extra_nbytes = _LOCAL.unpack_from(data, place)
        start = place + _LOCAL.size + name_nbytes + extra_nbytes
        content = memoryview(data)[start : start + size]
        # The size is filled in at last: without one, the content may be anywhere.
        is_whole = size and len(content) == size and zlib.crc32(content) == crc
        if method != zipfile.ZIP_STORED or flags & _SIZES_FOLLOW or not is_whole:
            return
        yield data[place + _LOCAL.size :][:name_nbytes].decode("utf-8", "replace"), content
        place = start + size


def _parse_array(data: bytes) -> NDArray[Any]:
    """Return the array in an NPY file. Raises `ValueError`."""
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"NPY format {version} is not known")
    try:
        shape, is_fortran, dtype = read_header(file)
    except (SyntaxError, tokenize.TokenError, MemoryError) as exc:  # A header of brackets that nobody closes.
        raise ValueError(f"its NPY header is damaged: {_line(exc)}") from exc
    if dtype.hasobject:
        raise ValueError("it holds objects")
    count = int(np.prod([int(side) for side in shape], dtype=object)) if shape else 1
    if dtype.itemsize * count != len(data) - file.tell():
        raise ValueError(f"{dtype} {list(shape)} does not fit {len(data) - file.tell()} bytes")
    flat = np.frombuffer(data, dtype, count, file.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _steps_of(names: Iterable[str]) -> Iterator[int]:
    for name in names:
        text = name.removeprefix("steps/").removesuffix(".npy")
        if name == f"steps/{text}.npy" and len(text) <= 16 and text.removeprefix("-").isdecimal():
            yield int(text)


def _about_to_json(about: SnapshotsAbout) -> dict[str, Any]:
    return {
        "stepreel": SCHEMA,
        "clip": about.clip,
        "start_step": about.start_step,
        "frame_stride": about.frame_stride,
        "fps": about.fps,
        "encoding": dict(about.encoding),
        "kind": about.kind,
        "settings": dict(about.settings),
    }


def _about_from_json(text: str) -> SnapshotsAbout:
    """Return what a file says of itself. Raises `ValueError`, `KeyError` or `TypeError`."""
    found = json.loads(text)
    if found["stepreel"] != SCHEMA:
        raise ValueError(f"schema {found['stepreel']!r} is not {SCHEMA}")
    checked = {
        name: _typed(name, found[name], kinds)
        for name, kinds in (
            ("clip", (str,)),
            ("start_step", (int,)),
            ("frame_stride", (int,)),
            ("fps", (int, float)),
            ("encoding", (dict,)),
            ("kind", (str,)),
            ("settings", (dict,)),
        )
    }
    sides = [checked["settings"].get(side) or 1 for side in ("width", "height")]
    if any(type(side) is not int or side < 1 for side in sides) or math.prod(sides) > _MOST_PIXELS:
        raise ValueError("a picture can't be of that size")
    if checked["frame_stride"] < 1 or not 0 < checked["fps"] < 1e6:
        raise ValueError("frame_stride or fps can't be")
    return SnapshotsAbout(**checked)


def _typed(name: str, value: object, kinds: tuple[type, ...]) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{name} is {type(value).__name__}")
    return value


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__
