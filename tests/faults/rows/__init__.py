"""Every row, in the order of the table."""

# ruff: noqa: I001 - the order of the table.
from ..matrix import ROWS
from . import kills, service, endings, disks, workers, frames, callbacks, processes, clocks, threads, names, hostile
from . import pages, endurance

MODULES = (
    *(kills, service, endings, disks, workers, frames, callbacks, processes, clocks, threads, names, hostile),
    *(pages, endurance),
)

__all__ = ["MODULES", "ROWS"]
