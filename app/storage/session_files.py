"""What the files of a session itself are called: `session.json` and the like, or `session-rank2.json` of a rank."""

from __future__ import annotations

import re
from collections.abc import Iterable

_STEM = r"(?P<stem>session(-rank(?P<rank>\d{1,9}))?)"
_RECORD = re.compile(rf"{_STEM}(-pace)?", re.ASCII)
_FILE = re.compile(rf"{_STEM}\.jsonl?", re.ASCII)


def session_stem(rank: int | None) -> str:
    """Return what the names of a recorder's own files begin with; `rank`: among those that a launcher started."""
    return "session" if rank is None else f"session-rank{rank}"


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
