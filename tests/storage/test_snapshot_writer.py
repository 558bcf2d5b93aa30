"""The recording service's file of snapshots: every one that was flushed outlives whoever is killed."""

from __future__ import annotations

import io
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepreel.clip import SnapshotFile
from stepreel.errors import OutputError
from stepreel.interfaces import RendererArchive
from stepreel.storage.snapshot_file import SnapshotReader, archive_members
from stepreel.storage.snapshot_format import SnapshotsAbout
from stepreel.storage.snapshot_writer import SnapshotWriter, repair_snapshots

ABOUT = SnapshotsAbout(
    clip="run-step-0", start_step=0, frame_stride=1, fps=30.0, encoding={}, kind="synthetic", settings={"width": 64}
)
MODEL = archive_members(
    RendererArchive(kind="synthetic", arrays={"mesh": np.arange(12.0), "größe": np.ones(3)}, settings={})
)
FINAL = "run-step-0.snapshots.npz"
PART = f"{FINAL}.part"


def snapshot(step: int) -> bytes:
    return bytes([step % 251]) * (20 + step % 7)


def begun(folder: Path, steps: range = range(0)) -> SnapshotWriter:
    writer = SnapshotWriter(folder, ABOUT, MODEL)
    for step in steps:
        writer.append(step, snapshot(step))
    writer.flush()
    return writer


def resumed(folder: Path) -> SnapshotWriter:
    writer = SnapshotWriter.resume(folder, ABOUT)
    assert writer
    return writer


def steps_of(folder: Path) -> list[int]:
    with SnapshotReader(folder / FINAL) as reader:
        assert reader.about == ABOUT
        assert reader.archive().arrays["mesh"].tolist() == list(range(12))
        for step in reader.steps:
            assert reader.snapshot(step).tobytes() == snapshot(step)
        return reader.steps


def test_the_file_is_what_numpy_would_write_and_reads(tmp_path: Path) -> None:
    writer = begun(tmp_path, range(3))
    closed = writer.close(None)
    path = tmp_path / FINAL
    assert closed == SnapshotFile(file=FINAL, frames=3, nbytes=path.stat().st_size)
    assert os.listdir(tmp_path) == [FINAL]
    text = msgspec.json.encode(ABOUT).decode()
    expected = {"about": np.array(text), "model/größe": np.ones(3)}
    expected |= {f"steps/{step}": np.frombuffer(snapshot(step), np.uint8) for step in range(3)}
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive) == {*expected, "model/mesh"}
        for name, array in expected.items():
            data = io.BytesIO()
            np.save(data, array)
            assert archive.zip.read(f"{name}.npy") == data.getvalue()


def test_a_step_that_is_there_is_passed_over(tmp_path: Path) -> None:
    writer = begun(tmp_path, range(3))
    writer.append(2, b"another")
    assert sorted(writer.steps) == [0, 1, 2]
    writer.close(None)
    assert steps_of(tmp_path) == [0, 1, 2]


def test_only_what_is_kept_is_in_the_file_and_nothing_else_beside_it(tmp_path: Path) -> None:
    writer = begun(tmp_path, range(40))
    whole = (tmp_path / PART).stat().st_size
    closed = writer.close({3, 17, 99})
    assert closed
    assert closed.frames == 2
    assert closed.nbytes == (tmp_path / FINAL).stat().st_size < whole
    assert steps_of(tmp_path) == [3, 17]
    assert os.listdir(tmp_path) == [FINAL]


@pytest.mark.parametrize("keep", [(), {99}])
def test_where_nothing_is_kept_there_is_no_file(tmp_path: Path, keep: set[int]) -> None:
    assert begun(tmp_path, range(3)).close(keep) is None
    assert begun(tmp_path).close(None) is None
    begun(tmp_path, range(3)).discard()
    assert os.listdir(tmp_path) == []


def test_what_was_let_go_is_gone_on_with(tmp_path: Path) -> None:
    begun(tmp_path, range(3)).abandon()
    writer = resumed(tmp_path)
    assert sorted(writer.steps) == [0, 1, 2]
    for step in range(2, 5):
        writer.append(step, snapshot(step))
    writer.close(None)
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4]


def test_what_was_closed_just_before_the_end_is_gone_on_with(tmp_path: Path) -> None:
    begun(tmp_path, range(3)).close(None)
    writer = resumed(tmp_path)
    writer.append(3, snapshot(3))
    writer.close(None)
    assert steps_of(tmp_path) == [0, 1, 2, 3]
    assert os.listdir(tmp_path) == [FINAL]


def test_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    assert SnapshotWriter.resume(tmp_path, ABOUT) is None
    (tmp_path / PART).write_bytes(b"something")
    assert SnapshotWriter.resume(tmp_path, ABOUT) is None
    (tmp_path / PART).unlink()
    begun(tmp_path, range(3)).abandon()
    data = (tmp_path / PART).read_bytes()
    assert SnapshotWriter.resume(tmp_path, msgspec.structs.replace(ABOUT, start_step=1)) is None
    assert (tmp_path / PART).read_bytes() == data


def test_links_are_neither_followed_nor_replaced(tmp_path: Path) -> None:
    folder, outside = tmp_path / "videos", tmp_path / "outside"
    for path in (folder, outside):
        path.mkdir()
    begun(outside, range(3)).abandon()
    data = (outside / PART).read_bytes()
    (folder / PART).symlink_to(outside / PART)
    assert SnapshotWriter.resume(folder, ABOUT) is None
    with pytest.raises(OutputError, match="links are not followed"):
        SnapshotWriter(folder, ABOUT, MODEL)
    with pytest.raises(OutputError, match="links are not followed"):
        repair_snapshots(folder, PART)
    (folder / PART).unlink()
    (folder / FINAL).symlink_to(outside / "nothing")
    writer = begun(folder, range(3))
    with pytest.raises(OutputError, match="is there already"):
        writer.close(None)
    assert os.listdir(outside) == [PART]
    assert (outside / PART).read_bytes() == data
    assert (folder / FINAL).is_symlink()


def test_a_file_that_holds_snapshots_is_not_written_over(tmp_path: Path) -> None:
    begun(tmp_path).abandon()
    begun(tmp_path, range(3)).abandon()
    with pytest.raises(OutputError, match="holds snapshots already"):
        begun(tmp_path)
    assert sorted(resumed(tmp_path).steps) == [0, 1, 2]


@contextmanager
def room_for(nbytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_a_full_disk_does_not_take_is_no_step_and_the_rest_stays(tmp_path: Path) -> None:
    writer = begun(tmp_path, range(3))
    with room_for((tmp_path / PART).stat().st_size + 100):
        for step in range(3, 6):
            writer.append(step, snapshot(step))
        with pytest.raises(OutputError, match="can't be written"):
            writer.flush()
    assert sorted(writer.steps) == [0, 1, 2]
    writer.append(7, snapshot(7))
    writer.close(None)
    assert steps_of(tmp_path) == [0, 1, 2, 7]


def test_a_file_for_which_there_is_no_room_is_not_left_behind(tmp_path: Path) -> None:
    with room_for(100), pytest.raises(OutputError, match="can't be written"):
        SnapshotWriter(tmp_path, ABOUT, MODEL)
    assert os.listdir(tmp_path) == []


def test_a_file_that_a_full_disk_keeps_from_being_closed_is_gone_on_with(tmp_path: Path) -> None:
    for keep in (None, {1}):
        writer = begun(tmp_path, range(3))
        with (
            room_for((tmp_path / PART).stat().st_size if keep is None else 200),
            pytest.raises(OutputError, match="can't be written"),
        ):
            writer.close(keep)
        assert os.listdir(tmp_path) == [PART]
        resumed(tmp_path).close(None)
        assert steps_of(tmp_path) == [0, 1, 2]
        (tmp_path / FINAL).unlink()


def test_much_that_is_appended_does_not_wait_in_memory(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path, ABOUT, MODEL)
    for step in range(12):
        writer.append(step, memoryview(bytes(2**20)))
    assert (tmp_path / PART).stat().st_size > 8 * 2**20
    writer.discard()


@pytest.mark.parametrize("part", [b"", b"PK", b"PK\3\4" + bytes(50), bytes(4096)])
def test_repair_removes_what_was_only_begun(tmp_path: Path, part: bytes) -> None:
    (tmp_path / PART).write_bytes(part)
    assert repair_snapshots(tmp_path, PART) is None
    assert os.listdir(tmp_path) == []


def test_repair_leaves_what_is_not_of_the_clip_as_it_is(tmp_path: Path) -> None:
    begun(tmp_path, range(3)).abandon()
    (tmp_path / PART).rename(tmp_path / f"other-{PART}")
    (tmp_path / PART).write_bytes(b"somebody's")
    for name, problem in ((f"other-{PART}", "holds the snapshots of 'run-step-0'"), (PART, "is no file of snapshots")):
        data = (tmp_path / name).read_bytes()
        with pytest.raises(OutputError, match=problem):
            repair_snapshots(tmp_path, name)
        assert (tmp_path / name).read_bytes() == data


def test_a_hole_from_a_power_cut_costs_only_what_was_in_it(tmp_path: Path) -> None:
    begun(tmp_path, range(9)).abandon()
    data = bytearray((tmp_path / PART).read_bytes())
    place = data.index(b"steps/4.npy")
    data[place - 10 : place + 60] = bytes(70)
    (tmp_path / PART).write_bytes(data)
    writer = resumed(tmp_path)
    writer.append(20, snapshot(20))
    writer.abandon()
    (tmp_path / PART).write_bytes(data)
    closed = repair_snapshots(tmp_path, PART)
    assert closed
    assert closed.frames == 8
    assert steps_of(tmp_path) == [0, 1, 2, 3, 5, 6, 7, 8]


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(st.integers(-1, 300), max_size=30),
    flushes=st.sets(st.integers(0, 29)),
    cut=st.floats(0, 1),
    more=st.lists(st.integers(-1, 300), max_size=5),
    kept=st.none() | st.sets(st.integers(-1, 300)),
)
def test_every_snapshot_before_a_cut_is_there_in_the_end(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[int],
    flushes: set[int],
    cut: float,
    more: list[int],
    kept: set[int] | None,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    part = folder / PART
    ends: dict[int, int] = {}
    writer = SnapshotWriter(folder, ABOUT, MODEL)
    begin_nbytes = part.stat().st_size
    for place, step in enumerate(steps):
        writer.append(step, snapshot(step))
        if place in flushes:
            writer.flush()
            ends |= dict.fromkeys(set(writer.steps) - ends.keys(), part.stat().st_size)
    writer.abandon()
    size = round(cut * part.stat().st_size)
    os.truncate(part, size)
    again = SnapshotWriter.resume(folder, ABOUT)
    if again is None:
        assert size < begin_nbytes
        return
    certain = {step for step, end in ends.items() if end <= size}
    assert certain <= set(again.steps) <= ends.keys()
    before = set(again.steps)
    for step in more:
        again.append(step, snapshot(step))
    wanted = before | set(more)
    closed = again.close(kept)
    expected = sorted(wanted if kept is None else wanted & kept)
    assert (closed.frames if closed else 0) == len(expected)
    assert (steps_of(folder) if closed else os.listdir(folder)) == expected
