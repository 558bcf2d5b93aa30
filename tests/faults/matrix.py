"""The rows of the matrix: each a fault, what is promised of it, and how it is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .evidence import Broken
from .harness import NotHereError, Outcome, Try

Run = Callable[[Try], int]
"""Injects the fault and looks at what is left. Returns the frames lost; raises `Broken` where a promise is."""

ROWS: dict[str, Row] = {}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault."""

    name: str
    promise: str
    """In a user's words."""
    inject: Run
    tries: int | None
    """How often it is worth trying; None: as often as asked, since the moment is random."""
    slow: bool

    @property
    def theme(self) -> str:
        """Rows of a theme are tried together where time is short."""
        return self.inject.__module__.rpartition(".")[2]

    def run(self, seed: int, *, long: bool) -> Outcome:
        """Try it once; `long`: rows about endurance take as long as they must."""
        one = Try(seed, long=long)
        try:
            loss = self.inject(one)
        except Broken as exc:
            return Outcome(held=False, loss_frames=0, detail="; ".join([str(exc), *one.notes]))
        except NotHereError as exc:
            return Outcome(held=True, loss_frames=0, detail=str(exc), skipped=True)
        except Exception as exc:  # noqa: BLE001 - a fault of the harness is shown like one of the product.
            return Outcome(held=False, loss_frames=0, detail=f"the harness itself: {type(exc).__name__}: {exc}")
        finally:
            one.tidy()
        return Outcome(held=True, loss_frames=loss, detail="; ".join(one.notes))


def row(promise: str, *, tries: int | None = None, slow: bool = False) -> Callable[[Run], Run]:
    """Make a row of the function, under its name."""

    def add(inject: Run) -> Run:
        name = inject.__name__.replace("_", "-")
        ROWS[name] = Row(name=name, promise=promise, inject=inject, tries=tries, slow=slow)
        return inject

    return add
