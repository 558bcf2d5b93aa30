"""The frames of a clip as they are encoded, each with its step, in a form that needs no MP4 around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from av.bitstream import BitStreamFilterContext

from .inspection import open_decodable
from .manifest import read_manifest

_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""What turns the frames of an MP4 into a stream, by codec. Of the others, they are one already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFrame:
    """One picture, encoded."""

    step: int
    is_keyframe: bool
    """Whether a decoder can begin here."""
    codec: str
    """The codec's name in FFmpeg, such as h264; not that of the encoder."""
    size: tuple[int, int]
    """Width and height of the video [pixels]."""
    data: bytes
    """H.264 and HEVC in Annex B (start codes, and the parameter sets before each keyframe); others as in the MP4."""


def encoded_frames(path: Path) -> Iterator[EncodedFrame]:
    """Read a segment, open or closed, or every closed segment of a manifest. Nothing is decoded, nothing encoded again.

    Each segment begins with a keyframe. One that was cut is read up to the first frame that is not whole.

    Raises:
        OutputError: the file is not there, damaged, or does not say which steps it shows.
    """
    for segment in read_manifest(path).paths if path.name.endswith(".json") else (path,):
        yield from _of_segment(segment)


def _of_segment(path: Path) -> Iterator[EncodedFrame]:
    with open_decodable(path) as reader:
        codec = reader.stream.codec_context.codec.canonical_name
        size = (reader.stream.width, reader.stream.height)
        to_stream = BitStreamFilterContext(_FILTERS.get(codec, "null"), reader.stream)
        for packet in reader.packets():
            step = reader.label.step(reader.pts(packet.pts))
            is_keyframe = packet.is_keyframe
            data = b"".join(bytes(part) for part in to_stream.filter(packet))
            yield EncodedFrame(step=step, is_keyframe=is_keyframe, codec=codec, size=size, data=data)
