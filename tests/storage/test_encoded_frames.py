"""Encoded frames come with their steps, and can be decoded without the file that they were in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from stepreel.encoders.segment_writer import ClipWriter
from stepreel.errors import OutputError
from stepreel.storage.encoded_frames import EncodedFrame, encoded_frames
from stepreel.storage.inspection import decode_frames
from stepreel.storage.manifest import write_manifest

from ..encoders.test_segment_writer import SETTINGS, number_in, picture, write
from .leftovers import state_of

START_CODE = b"\x00\x00\x00\x01"
DECODERS = {"h264": "h264", "hevc": "hevc", "av1": "libdav1d", "vp9": "vp9"}
"""FFmpeg's own decoder of AV1 needs a GPU."""


def decode(frames: Iterable[EncodedFrame], codec: str) -> list[NDArray[np.uint8]]:
    """Decode frames that nothing is known of but their codec, one picture each."""
    decoder = VideoCodecContext.create(DECODERS[codec], "r")
    assert isinstance(decoder, VideoCodecContext)
    pictures = [frame for one in frames for frame in decoder.decode(av.Packet(one.data))]
    pictures += decoder.decode(None)
    return [frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False) for frame in pictures]


@pytest.mark.parametrize(
    ("encoder", "codec"), [("libx264", "h264"), ("libx265", "hevc"), ("libsvtav1", "av1"), ("libvpx-vp9", "vp9")]
)
def test_each_frame_decodes_without_the_file_to_the_picture_of_its_step(
    tmp_path: Path, encoder: str, codec: str
) -> None:
    (segment,) = write(tmp_path, range(40), start_step=100, stride=3, encode=replace(SETTINGS, codec=encoder))
    frames = list(encoded_frames(tmp_path / segment.file))
    assert [frame.step for frame in frames] == list(range(100, 220, 3))
    assert {(frame.codec, frame.size) for frame in frames} == {(codec, (96, 64))}
    assert [number_in(pixels) for pixels in decode(frames, codec)] == [frame.step for frame in frames]


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_a_decoder_can_begin_at_any_keyframe(tmp_path: Path, encoder: str) -> None:
    (segment,) = write(tmp_path, range(40), encode=replace(SETTINGS, codec=encoder))
    frames = list(encoded_frames(tmp_path / segment.file))
    keyframes = [place for place, frame in enumerate(frames) if frame.is_keyframe]
    assert keyframes == [0, 14, 28]
    for place in keyframes:
        assert frames[place].data.startswith(START_CODE)
        numbers = [number_in(pixels) for pixels in decode(frames[place:], frames[place].codec)]
        assert numbers == list(range(place, 40))


def test_nothing_is_encoded_again(tmp_path: Path) -> None:
    (segment,) = write(tmp_path, range(20))
    path = tmp_path / segment.file
    with av.open(str(path)) as container:
        stored = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    frames = list(encoded_frames(path))
    assert len(frames) == len(stored)
    for frame, packet in zip(frames, stored, strict=True):
        nbytes = int.from_bytes(packet[:4])  # An MP4 has each unit's length in the place of a start code.
        assert START_CODE[1:] + packet[4 : 4 + nbytes] in frame.data


def test_dropped_frames_shift_nothing(tmp_path: Path) -> None:
    kept = [*range(7, 20), *range(35, 60)]
    (segment,) = write(tmp_path, kept, end_pts=80)
    frames = list(encoded_frames(tmp_path / segment.file))
    assert [frame.step for frame in frames] == kept
    assert [number_in(pixels) for pixels in decode(frames, "h264")] == kept


def test_a_manifest_stands_for_all_segments_and_each_begins_with_a_keyframe(tmp_path: Path) -> None:
    segments = write(tmp_path, range(61), encode=replace(SETTINGS, segment_s=1.0))
    assert len(segments) > 1
    write_manifest(tmp_path, state_of("clip", segments=tuple(segments)))
    frames = list(encoded_frames(tmp_path / "clip.json"))
    assert [frame.step for frame in frames] == list(range(61))
    keyframes = {frame.step for frame in frames if frame.is_keyframe}
    assert {segment.first_step for segment in segments} <= keyframes
    assert [number_in(pixels) for pixels in decode(frames, "h264")] == list(range(61))


def test_an_open_segment_has_the_frames_that_are_in_it_so_far(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path, "clip", SETTINGS, start_step=0, frame_stride=1)
    for number in range(40):
        writer.write(picture(number), step=number, pts=number)
    writer.abandon()
    (part,) = tmp_path.glob("*.part")
    frames = list(encoded_frames(part))
    assert [frame.step for frame in frames] == [step for step, _ in decode_frames(part)]
    assert len(frames) >= 15


def test_what_stepreel_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(b"no video")
    with pytest.raises(OutputError, match=r"other\.mp4 can't be played"):
        list(encoded_frames(tmp_path / "other.mp4"))
    with pytest.raises(OutputError, match=r"gone\.json can't be read"):
        list(encoded_frames(tmp_path / "gone.json"))
