"""`stepreel recover`: a table of what was repaired, lines for what was not, and an exit status to go by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stepreel.clip import ClipState, DropCause
from stepreel.storage.folder_lock import FolderLock
from stepreel.storage.manifest import read_manifest, write_manifest

from ..storage.leftovers import NAME, contents, dropped, leave, leave_clip, state_of
from .conftest import Command


def leave_late_manifest(folder: Path) -> None:
    """Leave a clip that is whole on disk, of which the manifest does not know the end."""
    segments = leave(folder, 61)[:2]
    (folder / f"{NAME}.002.mp4.part").unlink()
    write_manifest(folder, state_of(segments=segments[:1], open_segment=f"{NAME}.001.mp4.part", end_step=118))


def test_a_clip_that_was_cut_short_is_a_row_and_exit_3_and_then_nothing_to_do(
    stepreel: Command, tmp_path: Path
) -> None:
    leave_clip(tmp_path, 25)
    result = stepreel("recover", tmp_path)
    assert result.exit_code == 3
    (row,) = [line for line in result.stdout.splitlines() if line.startswith(NAME)]
    assert "recovered" in row
    assert f"{NAME}.000.mp4.part closed as {NAME}.mp4" in row
    assert result.stdout.splitlines()[-1] == f"{tmp_path}: 1 clip, 1 repaired"
    before = contents(tmp_path)
    again = stepreel("recover", tmp_path)
    assert (again.exit_code, again.stdout) == (0, f"{tmp_path}: 1 clip, 0 repaired\n")
    assert contents(tmp_path) == before


def test_what_was_repaired_without_loss_is_exit_0(stepreel: Command, tmp_path: Path) -> None:
    leave_late_manifest(tmp_path)
    assert stepreel("recover", tmp_path).exit_code == 0
    assert read_manifest(tmp_path / f"{NAME}.json").state is ClipState.COMPLETE


def test_a_folder_without_clips_is_exit_0(stepreel: Command, tmp_path: Path) -> None:
    result = stepreel("recover", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}: 0 clips, 0 repaired\n")


def test_what_can_not_be_repaired_is_a_line_and_exit_1_and_the_rest_goes_on(stepreel: Command, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        leave_clip(folder, 25)
    (first / f"{NAME}.000.mp4.part").write_bytes(b"no video" * 100)
    result = stepreel("recover", first, second)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(first / f"{NAME}.000.mp4.part") in line
    assert f"{first}: 1 clip, 1 repaired, 1 left as they are" in result.stdout
    assert f"{second}: 1 clip, 1 repaired" in result.stdout


def test_a_folder_that_is_recorded_into_is_left_alone_with_exit_0(
    stepreel: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepreel.storage.recovery._ORPHAN_S", 0.1)
    leave_clip(tmp_path, 25)
    lock = FolderLock.share(tmp_path)
    before = contents(tmp_path)
    result = stepreel("recover", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}: still being recorded, left alone\n")
    assert contents(tmp_path) == before
    lock.release()


def test_a_dry_run_tells_the_same_and_changes_nothing(stepreel: Command, tmp_path: Path) -> None:
    leave_clip(tmp_path, 25)
    before = contents(tmp_path)
    told = stepreel("recover", "--dry-run", tmp_path)
    assert contents(tmp_path) == before
    done = stepreel("recover", tmp_path)
    assert told.exit_code == done.exit_code == 3
    assert told.stdout == done.stdout.replace("1 repaired", "1 to repair")


def test_json_is_an_object_for_each_folder(stepreel: Command, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    leave(folders[0], 25)
    lost = state_of(
        state=ClipState.FAILED, end_step=58, frames=dropped(DropCause.DISK_FULL, 30, 0), missing_steps=((0, 58),)
    )
    write_manifest(folders[0], replace(lost, open_segment=f"{NAME}.000.mp4.part"))
    result = stepreel("recover", "--json", *folders)
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert second == {
        "folder": str(folders[1]),
        "recording": False,
        "sound": 0,
        "mended": [],
        "removed": [],
        "problems": [],
        "undrawn": [],
    }
    (clip,) = first["mended"]
    assert (clip["clip"], clip["state"], clip["whole"]) == (NAME, "recovered", False)
    assert clip["requested"] == clip["encoded"] + clip["dropped"]["disk_full"] == 30
    assert [segment["file"] for segment in clip["segments"]] == [f"{NAME}.mp4"]


@pytest.mark.parametrize("command", ["recover", "inspect"])
def test_names_that_would_write_on_the_screen_are_written_out(stepreel: Command, tmp_path: Path, command: str) -> None:
    name = "run\x1b[2J\n\udcff"
    leave_clip(tmp_path, 25)
    for suffix in (".json", ".000.mp4.part"):
        (tmp_path / f"{name}{suffix}").write_bytes(b"hostile")
    result = stepreel(command, tmp_path)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "\x1b" not in result.output
    assert "run\\x1b[2J\\n\\udcff" in result.output


@pytest.mark.parametrize("name", ["", "nothing", "notes.txt"])
def test_what_is_no_folder_is_refused(stepreel: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("")
    result = stepreel("recover", *([tmp_path / name] if name else []))
    assert result.exit_code == 2
    assert result.stdout == ""
