"""Messages survive the pipe, however it cuts them."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import Segment, WorkerError
from stepreel.encoders import protocol
from stepreel.encoders.protocol import Message, MessageReader, to_bytes

SEGMENT = Segment(file="clip.mp4", first_step=-1, last_step=8, frames=10, nbytes=999, duration_s=0.5)
MESSAGES: list[Message] = [
    protocol.OpenStream(
        stream="default", version=0, width=None, height=2, fps=29.97, render_duty=0.5, payload=bytes(range(256)) * 100
    ),
    protocol.BeginClip(
        clip=1, stream="default", version=3, name="übung \u2028", start_step=-1, frame_stride=2, first_index=0
    ),
    protocol.SegmentClosed(clip=3, segment=SEGMENT),
    protocol.FrameDone(
        cpu_s=0.001, clip=3, step=7, cause="render_failed", message='a "quote"\n', render_s=0.1, encode_s=0.0
    ),
    protocol.ClipDone(clip=2**40),
]


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.integers(1, 5000))
def test_messages_come_out_as_they_went_in_however_the_pipe_cuts_them(messages: list[Message], size: int) -> None:
    data = b"".join(to_bytes(message) for message in messages)
    reader = MessageReader()
    received = [message for place in range(0, len(data), size) for message in reader.feed(data[place : place + size])]
    assert received == messages


def test_every_message_type_can_be_sent() -> None:
    for kind in protocol._TYPES.values():
        values: dict[str, object] = {field.name: SEGMENT if field.name == "segment" else 1 for field in fields(kind)}
        values = {name: b"x" if name == "payload" else value for name, value in values.items()}
        message = kind(**values)
        assert list(MessageReader().feed(to_bytes(message))) == [message]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 8,
        b"\0\0\0\2\0\0\0\0{}",
        b"\0\0\0\4\0\0\0\0null",
        b"\0\0\0\x11\0\0\0\0" + b'{"type":"Unheard"}'[:17],
        b"\0\0\0\x13\0\0\0\0" + b'{"type":"ClipDone"}',
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(WorkerError):
        list(MessageReader().feed(data))
