"""What the files of a session itself are called: `session.json` and the like, or `session-rank2.json` of a rank."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from .files import open_appending

_STEM = r"(?P<stem>session(-rank(?P<rank>\d{1,9}))?)"
_RECORD = re.compile(rf"{_STEM}(-pace)?", re.ASCII)
_FILE = re.compile(rf"{_STEM}\.jsonl?", re.ASCII)


def session_stem(rank: int | None) -> str:
    """Return what the names of a recorder's own files begin with; `rank`: among those that a launcher started."""
    return "session" if rank is None else f"session-rank{rank}"


def status_path(folder: Path, service: int) -> Path:
    """Return where a recording service, by its process identifier, says how much it has left to finish."""
    return folder / f".stepreel-{service}"


def is_record(name: str) -> bool:
    """Return whether a JSON file of this name, without suffix, is the session's own; no clip is called so."""
    return _RECORD.fullmatch(name) is not None


def is_session_file(entry: str) -> bool:
    """Return whether a file shows that somebody has recorded into its folder."""
    return _FILE.fullmatch(entry) is not None


def session_stems(entries: Iterable[str]) -> list[str]:
    """Return the stems of the sessions in a folder: the one without a rank first, then rank by rank."""
    found = [match for entry in entries if entry.endswith(".json") and (match := _FILE.fullmatch(entry))]
    return [match["stem"] for match in sorted(found, key=lambda match: int(match["rank"] or -1))]


def launched_rank() -> int | None:
    """Return the number among several ranks that a launcher such as torchrun started, or None where there is one."""
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    is_one_of_several = rank.isdecimal() and world_size.isdecimal() and int(world_size) > 1
    return int(rank) if is_one_of_several else None


def local_ranks() -> int:
    """Return how many ranks a launcher such as torchrun has started on this machine; 1 where it does not say."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(int(count), 1) if count.isdecimal() else 1


def append_crash(folder: Path, stem: str, text: str) -> None:
    """Note in the session's log that the recording service failed, where that can be written."""
    moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    line = json.dumps({"event": "recorder.failed", "level": "warning", "error": text, "timestamp": moment})
    with suppress(OSError), open_appending(folder / f"{stem}.jsonl") as file:
        file.write(b"\n" + line.encode() + b"\n")
