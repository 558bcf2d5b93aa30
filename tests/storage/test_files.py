"""Files written whole, in place of ours and never of somebody's link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stepreel.storage.files import replace_whole, write_whole


def test_a_file_is_replaced_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    for data in (b"first", b"second" * 100_000):
        write_whole(str(path), data)
        assert path.read_bytes() == data
        replace_whole(path, data + b"!")
        assert path.read_bytes() == data + b"!"
    assert os.listdir(tmp_path) == ["session.json"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_neither_followed_nor_replaced(tmp_path: Path, exists: bool) -> None:
    outside, link = tmp_path / "outside", tmp_path / "session.json"
    if exists:
        outside.write_bytes(b"somebody's")
    link.symlink_to(outside)
    with pytest.raises(OSError, match="links are not followed"):
        write_whole(str(link), b"ours")
    with pytest.raises(OSError, match="links are not followed"):
        replace_whole(link, b"ours")
    assert link.readlink() == outside
    assert sorted(os.listdir(tmp_path)) == (["outside"] if exists else []) + ["session.json"]
    assert not exists or outside.read_bytes() == b"somebody's"


def test_a_draft_that_is_a_link_is_taken_away_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"somebody's")
    (tmp_path / "session.json.part").symlink_to(tmp_path / "outside")
    replace_whole(tmp_path / "session.json", b"ours")
    assert sorted(os.listdir(tmp_path)) == ["outside", "session.json"]
    assert (tmp_path / "outside").read_bytes() == b"somebody's"


def test_what_can_not_be_replaced_stays_and_no_draft_is_left(tmp_path: Path) -> None:
    (tmp_path / "session.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_whole(tmp_path / "session.json", b"ours")
    assert os.listdir(tmp_path) == ["session.json"]
