"""What a file of snapshots looks like: its name, what it says of itself, and its members; without numpy.

The file is an uncompressed NPZ archive, which `numpy.load` reads without unpickling anything:

    about            JSON text: the clip, how to encode it, the kind of renderer and its settings
    model/<name>     the renderer's arrays
    steps/<step>     one snapshot, uint8, `[nbytes]`

Its directory is written when it is closed. Until then each member stands behind a header with its size and checksum,
so that a file that was cut anywhere still gives every member before the cut.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import Annotated, Any, NamedTuple
from zipfile import LargeZipFile, ZipInfo

import msgspec
from msgspec import Meta, Struct

SNAPSHOTS_SUFFIX = ".snapshots.npz"
SCHEMA = 1
ABOUT = "about.npy"
MOST_MEMBER_NBYTES = 2**31 - 1
"""More takes headers of another kind."""
_MOST_ABOUT_CHARACTERS = 2**18
_MOST_PIXELS = 2**27
"""A picture with more is refused before there is memory for it."""
_MOST_DAMAGES = 100
"""Places at which a file is searched for the next member that is whole."""
_LOCAL = struct.Struct("<4s5H3I2H")
"""A local file header of the ZIP format (APPNOTE 4.3.7)."""
_LOCAL_SIGNATURE = b"PK\x03\x04"
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_CHUNK_NBYTES = 2**20


class SnapshotsAbout(Struct, frozen=True, kw_only=True, tag_field="stepreel", tag=SCHEMA):
    """What a snapshot file says of itself.

    Raises:
        ValueError: the pictures can't be of that size.
    """

    clip: str
    start_step: int
    """The step shown at `pts` 0 of the clip."""
    frame_stride: Annotated[int, Meta(ge=1)]
    fps: Annotated[float, Meta(gt=0, lt=1e6)]
    encoding: Mapping[str, Any]
    """Settings of the encoder, by their names in `RecorderConfig`."""
    kind: str
    """See `RendererArchive.kind`."""
    settings: Mapping[str, Any]
    """See `RendererArchive.settings`."""

    def __post_init__(self) -> None:
        sides = [self.settings.get(side) or 1 for side in ("width", "height")]
        if any(type(side) is not int or side < 1 for side in sides) or math.prod(sides) > _MOST_PIXELS:
            raise ValueError("a picture can't be of that size")


def about_to_npy(about: SnapshotsAbout) -> bytes:
    """Return the text of the member `about`, as an array of no dimension."""
    text = msgspec.json.encode(about).decode()
    return npy_header(f"<U{len(text)}", "()") + text.encode("utf-32-le")


def about_from_npy(data: bytes) -> SnapshotsAbout:
    """Return what the member `about` says. Raises `ValueError`."""
    nbytes = len(_NPY_MAGIC) + 2 + int.from_bytes(data[len(_NPY_MAGIC) : len(_NPY_MAGIC) + 2], "little")
    if not data.startswith(_NPY_MAGIC) or len(data) - nbytes > 4 * _MOST_ABOUT_CHARACTERS:
        raise ValueError("it does not say what it is")
    try:
        return msgspec.json.decode(data[nbytes:].decode("utf-32-le"), type=SnapshotsAbout)
    except RecursionError as exc:
        raise ValueError("what it says of itself is nested too deep") from exc


def npy_header(descr: str, shape: str) -> bytes:
    """Return the beginning of an NPY file, version 1.0, aligned to 64 bytes as numpy does."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    nbytes = len(_NPY_MAGIC) + 2 + len(text) + 1
    padding = -nbytes % 64
    length = len(text) + padding + 1
    return _NPY_MAGIC + length.to_bytes(2, "little") + text.encode("latin-1") + b" " * padding + b"\n"


class Member(NamedTuple):
    """Where a member stands in the file, and what its headers say."""

    offset: int
    """Where its local header stands [bytes]."""
    crc: int
    nbytes: int

    def info(self, name: str) -> ZipInfo:
        """Return what the directory says of the member."""
        info = ZipInfo(name)  # No date, so that the same clip gives the same file.
        info.header_offset, info.CRC, info.file_size, info.compress_size = (
            self.offset,
            self.crc,
            self.nbytes,
            self.nbytes,
        )
        return info

    def header(self, name: str) -> bytes:
        """Return the local header of the member, complete."""
        return self.info(name).FileHeader(zip64=False)


def step_of(name: str) -> int | None:
    """Return the step whose snapshot a member of this name is, or None where it is none."""
    text = name.removeprefix("steps/").removesuffix(".npy")
    is_step = name == f"steps/{text}.npy" and len(text) <= 16 and text.isascii()
    return int(text) if is_step and text.removeprefix("-").isdecimal() else None


def whole_members(file: BufferedReader) -> Iterator[tuple[str, Member, bytes]]:
    """Yield the members of a file with or without a directory that are whole, each with its content.

    Between them there may be anything, such as zeros that a power cut left.
    """
    file_nbytes = os.fstat(file.fileno()).st_size
    offset: int | None = 0
    damages = 0
    while offset is not None:
        file.seek(offset)
        found = _read_member(file, offset, file_nbytes)
        if found:
            yield found
            offset = offset + len(found[1].header(found[0])) + found[1].nbytes
        else:
            damages += 1
            offset = _next_signature(file, offset + 1) if damages <= _MOST_DAMAGES else None


def is_beginning(file: BufferedReader) -> bool:
    """Return whether a file begins as one of snapshots does, or with the zeros that a power cut leaves."""
    file.seek(0)
    head = file.read(len(_LOCAL_SIGNATURE))
    return _LOCAL_SIGNATURE.startswith(head) or not any(head)


def _read_member(file: BufferedReader, offset: int, file_nbytes: int) -> tuple[str, Member, bytes] | None:
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        return None
    crc, nbytes, _, name_nbytes, extra_nbytes = _LOCAL.unpack(header)[6:]
    if not 0 < nbytes <= file_nbytes - offset or extra_nbytes:  # A size of 0 was not filled in.
        return None
    name_data = file.read(name_nbytes)
    try:
        name = name_data.decode()
        member = Member(offset, crc, nbytes)
        is_ours = name == ABOUT or name.startswith(("model/", "steps/"))
        if not is_ours or member.header(name) != header + name_data:
            return None
    except (ValueError, LargeZipFile):
        return None
    content = file.read(nbytes)
    return (name, member, content) if len(content) == nbytes and zlib.crc32(content) == crc else None


def _next_signature(file: BufferedReader, offset: int) -> int | None:
    while True:
        file.seek(offset)
        chunk = file.read(_CHUNK_NBYTES)
        place = chunk.find(_LOCAL_SIGNATURE)
        if place >= 0:
            return offset + place
        if len(chunk) < _CHUNK_NBYTES:
            return None
        offset += _CHUNK_NBYTES - len(_LOCAL_SIGNATURE) + 1
