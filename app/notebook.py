"""What a notebook shows of clips: HTML that stands by itself, whatever their names are."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .clip import Clip, FrameCounts

_MOST_VIDEO_NBYTES = 16 * 2**20
"""Of all segments of a clip: what a notebook shows is kept in its file."""
_MOST_ROWS = 100
_HEADINGS = ("clip", "state", "frames", "duration", "dropped", "files")


def clip_to_html(clip: Clip) -> str:
    """Return a clip as a row of a table, and its videos where their folder is known and they are not large."""
    return _table([clip]) + "".join(_video(path) for path in _shown(clip))


def clips_to_html(clips: Iterable[Clip], line: str) -> str:
    """Return clips as a table of at most 100 rows, the last ones, above a line of text."""
    clips = list(clips)
    left_out = len(clips) - _MOST_ROWS
    more = f"<p>{left_out} earlier clips are not shown.</p>" if left_out > 0 else ""
    return f"{_table(clips[-_MOST_ROWS:])}{more}<p>{_text(line)}</p>"


def _table(clips: Iterable[Clip]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in _cells(clip))}</tr>" for clip in clips)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(clip: Clip) -> tuple[str, ...]:
    return (
        clip.name,
        clip.state.value,
        f"{clip.frames.encoded} of {clip.frames.requested}",
        f"{sum(segment.duration_s for segment in clip.segments):.2f} s",
        _dropped(clip.frames),
        ", ".join(segment.file for segment in clip.segments[:_MOST_ROWS]) or "none",
    )


def _dropped(frames: FrameCounts) -> str:
    return ", ".join(f"{count} {cause.value}" for cause, count in frames.dropped.items() if count) or "0"


def _shown(clip: Clip) -> tuple[Path, ...]:
    """Return the files of a clip that are there, no links, if all of them are small enough."""
    if clip.folder is None:
        return ()
    paths = tuple(path for path in clip.paths if path.is_file() and not path.is_symlink())
    return paths if sum(path.stat().st_size for path in paths) <= _MOST_VIDEO_NBYTES else ()


def _video(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError:
        return f"<p>{_text(path.name)} can't be read.</p>"
    source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    return f'<video controls preload="metadata" aria-label="{_text(path.name)}" src="{source}" width="480"></video>'


def _text(value: str) -> str:
    return escape("".join(char if char.isprintable() else ascii(char)[1:-1] for char in value))
