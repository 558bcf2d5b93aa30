"""Messages between training and its recording service."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import Clip, ClipState, RecorderConfig
from stepreel.clip import DropCause, FrameCounts, Segment
from stepreel.errors import WorkerError
from stepreel.transport.messages import (
    ClipBegan,
    ClipEnded,
    ClipReady,
    Close,
    Flush,
    FrameReader,
    Heard,
    Logged,
    Noted,
    SegmentReady,
    SourceDescription,
    ToService,
    ToTraining,
    Trouble,
    decode,
    encode,
    sendable,
    to_frame,
)

SEGMENT = Segment(file="a.mp4", first_step=0, last_step=3, frames=4, nbytes=9, duration_s=0.5)
CLIP = Clip(
    name="a",
    stream="default",
    backend="synthetic",
    state=ClipState.INCOMPLETE,
    start_step=-1,
    end_step=None,
    frame_stride=2,
    fps=29.97,
    width=None,
    height=48,
    codec=None,
    frames=FrameCounts(requested=5, encoded=4, dropped={DropCause.QUEUE_FULL: 1}),
    missing_steps=((7, 7),),
    missing_by_cause={DropCause.QUEUE_FULL: ((7, 7),)},
    segments=(SEGMENT,),
)
TO_SERVICE = [
    Flush(token=1, head=2**40),
    Close(somebody_waits=True, drop_waiting=False),
    Noted(event="hook.failed", facts={"error": "é"}),
    Heard(clip=-3),
]
TO_TRAINING = [
    Logged(event="clip.closed", level="info", facts={"dropped": {"queue_full": 2}}),
    SegmentReady(clip=CLIP, segment=SEGMENT),
    ClipReady(index=0, clip=CLIP),
]


@pytest.mark.parametrize(("kind", "messages"), [(ToService, TO_SERVICE), (ToTraining, TO_TRAINING)])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_messages_come_out_as_they_went_in_however_they_are_cut(kind: Any, messages: list[Any], size: int) -> None:
    data = b"".join(map(to_frame, messages))
    reader = FrameReader(kind)
    found = [one for place in range(0, len(data), size) for one in reader.feed(data[place : place + size])]
    assert found == messages


def test_numbers_of_numpy_and_fractions_go_as_numbers() -> None:
    trouble = Trouble(
        event="capture.failed",
        kind="size",
        count=1,
        facts={"step": np.int64(7), "rate": np.float32(0.5), "flag": True, "odd": Path("a"), "part": Fraction(1, 3)},
    )
    assert decode(encode(trouble), Trouble).facts == {
        "step": 7,
        "rate": 0.5,
        "flag": True,
        "odd": "a",
        "part": [1, 3],
    }


def test_a_value_whose_text_raises_goes_as_its_type() -> None:
    class Silent:
        def __str__(self) -> str:
            raise ValueError("no")

    facts = decode(encode(Trouble(event="e", kind="k", count=1, facts={"value": Silent()})), Trouble).facts
    assert facts == {"value": "Silent"}


def test_facts_of_any_kind_can_be_sent() -> None:
    nested: dict[str, Any] = {}
    nested["itself"] = nested
    facts = {"name": "half \udc80", "large": 2**70, "nested": nested, "keys": {1: {2}, np.int64(3): (4,)}}
    found = decode(encode(Trouble(event="e", kind="k", count=1, facts=sendable(facts))), Trouble).facts
    assert (found["name"], found["large"]) == ("half ?", str(2**70))
    assert found["keys"] == {"1": [2], "3": [4]}


def test_a_source_comes_out_as_it_went_in() -> None:
    settings = RecorderConfig(output_dir="videos").encode_settings(fps=float(np.float32(30000 / 1001)))
    source = SourceDescription(
        stream="default",
        index=0,
        version=1,
        backend="synthetic",
        prefix="rl-video",
        width=64,
        height=48,
        nbytes=None,
        fps=29.97,
        settings=settings,
        shares_gpu=False,
        renderer=b"\0pickled",
        archive=None,
        details={"camera": "front"},
    )
    assert decode(encode(source), SourceDescription) == source


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    for kind in (ClipBegan, ClipEnded, Trouble, SourceDescription):
        try:
            found = decode(data, kind)
        except WorkerError:
            continue
        assert decode(encode(found), kind) == found


@given(data=st.data(), message=st.sampled_from(TO_TRAINING + TO_SERVICE))
def test_a_message_with_other_bytes_is_another_one_or_refused(data: st.DataObject, message: Any) -> None:
    body = bytearray(encode(message))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[place] = data.draw(st.integers(0, 255))
    reader = FrameReader(ToTraining | ToService)
    try:
        found = list(reader.feed(struct.pack(">I", len(body)) + body))
    except WorkerError:
        return
    assert all(isinstance(one, msgspec.Struct) for one in found)


@pytest.mark.parametrize(
    "data", [b"\x81" * 5000, b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", encode({"type": "Flush"}), encode([1, 2]), b""]
)
def test_deep_huge_and_half_messages_are_refused(data: bytes) -> None:
    reader = FrameReader(ToService)
    with pytest.raises(WorkerError):
        list(reader.feed(struct.pack(">I", len(data)) + data))
    with pytest.raises(WorkerError):
        decode(data, ClipBegan)


def test_a_message_that_is_announced_as_longer_than_any_is_refused() -> None:
    with pytest.raises(WorkerError, match="announced"):
        list(FrameReader(ToService).feed(b"\xff\xff\xff\xff"))
