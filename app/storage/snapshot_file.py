"""Reading snapshots that were kept in a file, and what goes into one of a renderer."""

from __future__ import annotations

import io
import os
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..clip import SnapshotFile
from ..errors import OutputError
from ..interfaces import RendererArchive
from .files import open_ordinary, refuse_link
from .snapshot_format import ABOUT, SNAPSHOTS_SUFFIX, about_from_npy, step_of

_MOST_NBYTES = 2**32
"""Bytes of an array in a file; more is no snapshot file of ours."""
# `zipfile` calls what is encrypted, or of another version than it knows, a `RuntimeError`.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile)


def archive_members(archive: RendererArchive) -> list[tuple[str, bytes]]:
    """Return what a renderer is made of as members of a snapshot file: their names, and their content as NPY."""
    members = []
    for name, array in archive.arrays.items():
        data = io.BytesIO()
        npy.write_array(data, np.asanyarray(array), allow_pickle=False)
        members.append((f"model/{name}", data.getvalue()))
    return members


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
            self.about = about_from_npy(self._read(ABOUT))
            self.steps = sorted(step for name in self._members if (step := step_of(name)) is not None)
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
            return _parse_array(self._read(member))
        except _DAMAGED as exc:
            raise OutputError(f"{self._path}: {member} is damaged: {_line(exc)}") from exc

    def _read(self, name: str) -> bytes:
        member = self._members[name]
        # Stored as it is, an array is no larger than its file: nothing can swell.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > _MOST_NBYTES:
            raise ValueError(f"{name} is compressed, or larger than {_MOST_NBYTES} bytes")
        return self._zip.read(member)


def remove_snapshots(folder: Path, clip: str) -> None:
    """Remove the closed snapshot file of a clip. Raises `OutputError` where it can't be removed, or is a link."""
    path = folder / f"{clip}{SNAPSHOTS_SUFFIX}"
    try:
        refuse_link(path)
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"{path} can't be removed: {exc.strerror or exc}") from exc


def measure_snapshots(path: Path) -> SnapshotFile:
    """Return what a closed snapshot file holds. Raises `OutputError` where it can't be read."""
    with SnapshotReader(path) as reader:
        return SnapshotFile(file=path.name, frames=len(reader.steps), nbytes=os.lstat(path).st_size)


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


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__
