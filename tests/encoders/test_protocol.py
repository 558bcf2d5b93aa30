"""Messages survive the pipe, however it cuts them; whatever else comes out of it is refused."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import DropCause, RecorderConfig, Segment, WorkerError, WorkerPriority
from stepreel.encoders import protocol
from stepreel.encoders.protocol import Message, command_reader, reply_reader, to_bytes

SEGMENT = Segment(file="clip.mp4", first_step=-1, last_step=8, frames=10, nbytes=999, duration_s=0.5)
SETTINGS = RecorderConfig(output_dir="videos", segment_s=2.0).encode_settings(fps=29.97)
OPEN_STREAM = protocol.OpenStream(
    stream="default", version=0, width=None, height=2, settings=SETTINGS, render_duty=0.5, payload=bytes(range(256))
)
COMMANDS: list[protocol.Command] = [
    protocol.Configure(folder=Path("videos\udcff"), priority=WorkerPriority.IDLE, min_free_bytes=0, stream_count=1),
    OPEN_STREAM,
    protocol.BeginClip(
        clip=1, stream="default", version=3, name="übung \u2028", start_step=-1, frame_stride=2, first_index=0
    ),
    protocol.EncodeFrame(clip=1, step=-1, pts=0, offset=4096, nbytes=2**33, height=0, width=0),
    protocol.EndClip(clip=1, end_pts=8, saved_as="last", seconds=2.5),
    protocol.Remux(clip=1, part="clip.000.mp4.part", final="clip.mp4"),
    protocol.Finish(),
]
REPLIES: list[protocol.Reply] = [
    protocol.Ready(codec=None, versions={"av": "18.1.0"}),
    protocol.Refused(message="no such codec"),
    protocol.StreamOpened(stream="default", renderer="synthetic", open_s=0.25),
    protocol.StreamFailed(stream="default", message="no EGL"),
    protocol.SegmentOpened(clip=3, file="clip.000.mp4.part", width=64, height=48, codec="libx264", padded=True),
    protocol.SegmentClosed(clip=3, segment=SEGMENT),
    protocol.FrameDone(
        cpu_s=0.001, clip=3, step=7, cause=DropCause.RENDER_FAILED, message='a "quote"\n', render_s=0.1, encode_s=0.0
    ),
    protocol.SegmentLost(clip=3, cause=DropCause.DISK_FULL, message="full", is_kept=True),
    protocol.ClipDone(clip=2**40),
    protocol.Remuxed(clip=3, segment=SEGMENT),
    protocol.RingSaved(clip=3, steps=[1, 2, 3], width=64, height=48, codec="libx264", cause=None, message=""),
]


@given(st.lists(st.sampled_from(COMMANDS), max_size=6), st.integers(1, 5000))
def test_messages_come_out_as_they_went_in_however_the_pipe_cuts_them(
    messages: list[protocol.Command], size: int
) -> None:
    data = b"".join(to_bytes(message) for message in messages)
    reader = command_reader()
    received = [message for place in range(0, len(data), size) for message in reader.feed(data[place : place + size])]
    assert received == messages


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_replies_come_out_as_they_went_in(reply: protocol.Reply) -> None:
    assert list(reply_reader().feed(to_bytes(reply))) == [reply]


def test_every_kind_of_message_is_tried_here() -> None:
    assert {type(one) for one in COMMANDS} == set(get_args(protocol.Command))
    assert {type(one) for one in REPLIES} == set(get_args(protocol.Reply))


def test_numbers_of_numpy_go_over_the_pipe_as_pythons() -> None:
    message: Any = protocol.EndClip(clip=np.int64(3), end_pts=np.uint8(8), seconds=np.float32(0.5))  # type: ignore[arg-type]
    assert list(command_reader().feed(to_bytes(message))) == [protocol.EndClip(clip=3, end_pts=8, seconds=0.5)]


@pytest.mark.parametrize("value", [None, {"type": "Finish"}, protocol.Refused(message=object())])  # type: ignore[arg-type]
def test_what_can_not_be_sent_is_refused_where_it_is_sent(value: Any) -> None:
    with pytest.raises(TypeError):
        to_bytes(value)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def packed(message: Message, **changed: object) -> bytes:
    """Return a message as another program would send it, with other fields."""
    fields = {**msgspec.msgpack.decode(to_bytes(message)[4:]), **changed}
    return framed(msgspec.msgpack.encode(fields))


SETTINGS_SENT = msgspec.msgpack.decode(to_bytes(OPEN_STREAM)[4:])["settings"]
GARBAGE = {
    "a length that can't be": b"\xff" * 8,
    "nothing": framed(b""),
    "no map": framed(msgspec.msgpack.encode(None)),
    "cut off": framed(to_bytes(COMMANDS[2])[4:-1]),
    "two in one": framed(to_bytes(COMMANDS[2])[4:] * 2),
    "no UTF-8": framed(b"\x81\xa4type\xa2\xff\xff"),
    "a type that nobody knows": packed(COMMANDS[2], type="Unheard"),
    "a reply": to_bytes(REPLIES[0]),
    "a field too many": packed(COMMANDS[2], colour="red"),
    "a field missing": framed(msgspec.msgpack.encode({"type": "EndClip"})),
    "a field of another type": packed(COMMANDS[2], name=5),
    "memory before its begin": packed(COMMANDS[3], offset=-1),
    "a frame rate of nothing": packed(OPEN_STREAM, settings={**SETTINGS_SENT, "fps": [30, 0]}),
    "a frame rate that is none": packed(OPEN_STREAM, settings={**SETTINGS_SENT, "fps": "30"}),
    "a frame rate of three numbers": packed(OPEN_STREAM, settings={**SETTINGS_SENT, "fps": [30, 1, 1]}),
    "a setting that can't be": packed(OPEN_STREAM, settings={**SETTINGS_SENT, "crf": 99}),
    "too deep": framed(b"\x91" * 100_000),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(WorkerError):
        list(command_reader().feed(data))


@given(st.sampled_from(COMMANDS), st.data())
def test_a_message_with_a_wrong_byte_is_another_message_or_refused(
    message: protocol.Command, data: st.DataObject
) -> None:
    sent = bytearray(to_bytes(message))
    sent[data.draw(st.integers(4, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        (received,) = command_reader().feed(bytes(sent))
    except WorkerError:
        return
    assert isinstance(received, get_args(protocol.Command))


def test_frame_rates_stay_exact() -> None:
    (received,) = command_reader().feed(to_bytes(OPEN_STREAM))
    assert isinstance(received, protocol.OpenStream)
    assert received.settings.fps == Fraction(2997, 100)


def test_the_protocol_loads_neither_numpy_nor_ffmpeg() -> None:
    program = (
        "import sys, stepreel.transport.control_bytes, stepreel.encoders.cpus, stepreel.encoders.protocol\n"
        "import stepreel.service.worker_process\n"
        "print(sorted({'numpy', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
