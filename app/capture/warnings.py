"""What training has to tell the log: the first of a kind at once, later ones together, once in a while."""

from __future__ import annotations

import time
from typing import Any

from msgspec.structs import replace

from ..transport.journal import MOST_TEXT_NBYTES, JournalWriter, Kind
from ..transport.messages import Trouble, encode, sendable

_INTERVAL_S = 1.0
_MOST_TEXT = 500


class Warnings:
    """Sends warnings through the journal, rate-limited by kind. Belongs to the training thread."""

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        """By event and kind: when it was told last [s], and how many came since."""

    def warn(self, event: str, kind: str, *, count: int = 1, **facts: Any) -> None:
        """Have something logged."""
        told, waiting = self._told.get((event, kind), (-_INTERVAL_S, 0))
        now = time.monotonic()
        if now - told < _INTERVAL_S:
            self._told[event, kind] = (told, waiting + count)
            return
        self._told[event, kind] = (now, 0)
        self._write(event, kind, waiting + count, facts)

    def flush(self) -> None:
        """Have the repetitions logged that wait."""
        for (event, kind), (_, waiting) in self._told.items():
            if waiting:
                self._write(event, kind, waiting, {})
        self._told.clear()

    def _write(self, event: str, kind: str, count: int, facts: dict[str, Any]) -> None:
        short = {name: value[:_MOST_TEXT] if isinstance(value, str) else value for name, value in facts.items()}
        trouble = Trouble(event=event, kind=kind[:_MOST_TEXT], count=count, facts=sendable(short))
        text = encode(trouble)
        if len(text) > MOST_TEXT_NBYTES:  # Cut, it could not be read.
            text = encode(replace(trouble, facts={}))
        self._journal.write(Kind.TROUBLE, text=text)
