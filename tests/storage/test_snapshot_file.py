"""Files of snapshots that are damaged, or that somebody else made: an error of one line, whatever is in them."""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepreel.errors import OutputError
from stepreel.interfaces import RendererArchive
from stepreel.storage.snapshot_file import SnapshotReader, archive_members
from stepreel.storage.snapshot_format import SnapshotsAbout
from stepreel.storage.snapshot_writer import SnapshotWriter, repair_snapshots

ABOUT = SnapshotsAbout(
    clip="run-step-0", start_step=0, frame_stride=1, fps=30.0, encoding={}, kind="synthetic", settings={}
)
ARCHIVE = RendererArchive(kind="synthetic", arrays={"mesh": np.arange(12.0)}, settings={})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("snapshots")
    writer = SnapshotWriter(folder, ABOUT, archive_members(ARCHIVE))
    for step in range(3):
        writer.append(step, bytes([step] * 8))
    closed = writer.close(None)
    assert closed
    return (folder / closed.file).read_bytes()


def read_all(path: Path) -> list[int]:
    with SnapshotReader(path) as reader:
        reader.archive()
        return [int(reader.snapshot(step)[0]) for step in reader.steps]


def test_what_was_written_is_read(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "run-step-0.snapshots.npz"
    path.write_bytes(good)
    assert read_all(path) == [0, 1, 2]


@pytest.mark.parametrize(
    ("signature", "offset", "value"),
    [
        pytest.param(b"PK\1\2", 6, 0xFF, id="another version of ZIP"),
        pytest.param(b"PK\1\2", 8, 0x01, id="encrypted"),
        pytest.param(b"PK\1\2", 8, 0x20, id="a patch"),
        pytest.param(b"PK\3\4", 29, 0x20, id="content behind the end"),
    ],
)
def test_a_directory_of_another_kind_is_refused(
    tmp_path: Path, good: bytes, signature: bytes, offset: int, value: int
) -> None:
    data = bytearray(good)
    data[good.index(signature) + offset] = value
    path = tmp_path / "run-step-0.snapshots.npz"
    path.write_bytes(data)
    with pytest.raises(OutputError, match=r"no file of snapshots|mesh\.npy is damaged"):
        read_all(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (True,), }",
        b"(" * 9000,
        b"-" * 9000 + b"1",
        b"\n  1\n 2",
        b"'''",
        b"\xff",
    ],
    ids=["a shape of truths", "open brackets", "nested deep", "indented", "an open string", "no text"],
)
def test_a_member_with_another_header_is_refused(tmp_path: Path, good: bytes, header: bytes) -> None:
    path = tmp_path / "run-step-0.snapshots.npz"
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
        target.writestr("steps/7.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + b"x")
    with pytest.raises(OutputError, match=r"steps/7\.npy is damaged"):
        read_all(path)


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=20))
def test_any_change_is_read_or_refused(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(good)
    for place, value in changes:
        data[place % len(data)] = value
    folder = tmp_path_factory.mktemp("changed")
    path = folder / "run-step-0.snapshots.npz"
    for name, read in (
        (path.name, lambda: read_all(path)),
        (f"{path.name}.part", lambda: repair_snapshots(folder, f"{path.name}.part")),
    ):
        (folder / name).write_bytes(data)
        with suppress(OutputError):
            read()
        path.unlink(missing_ok=True)
