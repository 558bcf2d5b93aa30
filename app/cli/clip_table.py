"""What became of the clips, as a table for the screen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from ..clip import Clip, FrameCounts


def clip_table(clips: Iterable[Clip], output_path: Path) -> Table:
    """Return a table with a row for each clip: its files, its frames, its duration and what was dropped."""
    table = Table("clip", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    table.add_column("frames", justify="right")
    table.add_column("duration", justify="right")
    table.add_column("dropped")
    for clip in clips:
        table.add_row(
            "\n".join(str(output_path / segment.file) for segment in clip.segments) or f"{clip.name}: no file",
            str(clip.frames.encoded),
            f"{sum(segment.duration_s for segment in clip.segments):.2f} s",
            dropped_by_cause(clip.frames),
        )
    return table


def dropped_by_cause(frames: FrameCounts) -> str:
    """Return how many frames were dropped and why, such as `2 queue_full, 1 render_failed`, or `0`."""
    return ", ".join(f"{count} {cause}" for cause, count in sorted(frames.dropped.items()) if count) or "0"
