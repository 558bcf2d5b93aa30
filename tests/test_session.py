"""The log of a session, in a file that a full disk may have cut."""

from __future__ import annotations

import json
from pathlib import Path

from stepreel.session import SessionLog


def test_a_line_that_was_cut_spoils_no_other(tmp_path: Path) -> None:
    log = SessionLog(tmp_path)
    log.info("clip.opened", clip="first", step=0)
    log.write_lines()
    path = tmp_path / "session.jsonl"
    path.write_bytes(path.read_bytes() + b'{"clip": "sec')
    log.info("clip.opened", clip="third", step=9)
    log.write_lines()
    first, torn, third = path.read_text().splitlines()
    assert torn == '{"clip": "sec'
    assert [json.loads(line)["clip"] for line in (first, third)] == ["first", "third"]
    assert path.read_bytes().endswith(b"\n")
