"""A segment that nobody will finish -> what can be played of it, and what there is to report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..clip import DropCause
from ..errors import EncodeError, describe
from ..storage.files import PART_SUFFIX
from ..storage.remux import remux
from .protocol import Remux, Remuxed, Reply, SegmentLost


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why frames are not in a segment."""

    cause: DropCause
    message: str


WORKER_LOST = Failure(cause=DropCause.WORKER_LOST, message="")


def close_lost_segment(folder: Path, command: Remux, failure: Failure = WORKER_LOST) -> Iterator[Reply]:
    """Keep what a segment already holds on disk, where that can be done; yield what came of it.

    Args:
        folder: Output folder.
        command: The segment, and the name that it gets.
        failure: Why it can't be finished.
    """
    message = failure.message
    try:
        segment = remux(folder, command.part, _final_name(folder, command))
    except (EncodeError, OSError) as exc:
        segment, message = None, message or describe(exc)
    if segment:
        yield Remuxed(clip=command.clip, segment=segment)
    is_kept = (folder / command.part).exists()
    yield SegmentLost(clip=command.clip, cause=failure.cause, message=message, is_kept=is_kept)


def _final_name(folder: Path, command: Remux) -> str:
    """Return the name that the segment already has, if its writer was lost after the renaming, else the one asked."""
    names = (command.part.removesuffix(PART_SUFFIX), command.part[: -len(".000.mp4.part")] + ".mp4")
    renamed = [name for name in names if not (folder / command.part).exists() and (folder / name).exists()]
    return renamed[0] if renamed else command.final
