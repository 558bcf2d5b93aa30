"""A contact strip: a few pictures of a clip side by side, to see at a glance what happens in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ..errors import OutputError
from .inspection import open_decodable, timed_frames
from .manifest import read_manifest
from .segment_reader import SegmentReader
from .video_colors import FROM_VIDEO_COLORS

_MOST_ASPECT = 16
"""Of a picture: one that is wider is squeezed, as a file could ask for any amount of memory."""


def contact_strip(path: Path, count: int, height: int) -> NDArray[np.uint8]:
    """Decode `count` pictures of a clip, evenly spread from the first to the last, and put them side by side.

    Only the chosen pictures are decoded, and what leads to them from the keyframe before: up to `gop_s` seconds each.

    Args:
        path: A manifest (all its closed segments), or a segment, closed or open.
        count: Pictures, at least 1; fewer where the clip has fewer.
        height: Of the strip [pixels], at least 1; each picture keeps its proportions.

    Returns:
        Pixels, shape `[height, width, 3]`, uint8, sRGB.

    Raises:
        OutputError: there is no picture, or a file is not there, damaged, or not written by stepreel.
    """
    found = [(file, pts) for file in _segments(path) for pts in _all_pts(file)]
    if not found:
        raise OutputError(f"{path} holds no frame")
    pictures: list[NDArray[np.uint8]] = []
    for file, chosen in groupby(_spread(found, count), key=itemgetter(0)):
        pictures += _decode([pts for _, pts in chosen], file, height)
    return np.hstack(pictures)


def _segments(path: Path) -> tuple[Path, ...]:
    return read_manifest(path).paths if path.name.endswith(".json") else (path,)


def _spread(found: Sequence[tuple[Path, int]], count: int) -> list[tuple[Path, int]]:
    places = np.linspace(0, len(found) - 1, min(count, len(found)))
    return [found[round(place)] for place in places]


def _all_pts(path: Path) -> list[int]:
    """Return the `pts` of every frame of a file, in frames, ascending; decodes nothing."""
    with open_decodable(path) as reader:
        return sorted(reader.pts(packet.pts) for packet in reader.packets())


def _decode(wanted: Sequence[int], path: Path, height: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of the `pts` in `wanted`, ascending, as pictures of one height."""
    reformatter = VideoReformatter()
    with open_decodable(path) as reader:
        keyframes = sorted((reader.pts(p.pts), p.pts or 0) for p in reader.packets() if p.is_keyframe) or [(0, 0)]
        frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        reached = -1
        for pts in wanted:
            keyframe = max((one for one in keyframes if one[0] <= pts), default=keyframes[0])
            if reached < 0 or keyframe[0] > reached:
                frames = _frames_from(keyframe[1], reader, path)
            found = next((one for one in frames if one[0] >= pts), None)
            if found is None:
                raise OutputError(f"{path} can't be decoded: the frame at {pts} is not whole")
            reached, frame = found
            width = min(max(1, round(frame.width * height / frame.height)), _MOST_ASPECT * height)
            scaled = reformatter.reformat(frame, width=width, height=height, format="rgb24", **FROM_VIDEO_COLORS)
            yield scaled.to_ndarray().astype(np.uint8, copy=False)


def _frames_from(offset: int, reader: SegmentReader, path: Path) -> Iterator[tuple[int, av.VideoFrame]]:
    reader.container.seek(offset, stream=reader.stream)
    return timed_frames(reader, path)
