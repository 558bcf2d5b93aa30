"""Every row, in the order of the table."""

# ruff: noqa: I001 - the order of the table.
from ..matrix import ROWS
from . import kills, endings, disks, workers, frames, processes, clocks, threads, names, hostile, pages, endurance

MODULES = (kills, endings, disks, workers, frames, processes, clocks, threads, names, hostile, pages, endurance)

__all__ = ["MODULES", "ROWS"]
