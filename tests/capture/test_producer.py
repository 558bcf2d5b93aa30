"""The training thread's part: whatever a backend does costs a frame, and neither the training nor any memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import Any

import numpy as np
import pytest

from stepreel import DropCause, DropPolicy, RecorderClosedError
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.clip import CaptureRequest, Frame, Snapshot
from stepreel.errors import CaptureError, RecordingError, SourceChangedError
from stepreel.interfaces import Slot
from stepreel.transport.journal import Kind
from stepreel.transport.messages import ClipBegan, ClipEnded, SourceDescription, decode, encode
from stepreel.transport.shared_memory import TrainingWord

from ..interruptions import interrupt_everywhere
from .producing import Capture, Producing, ScriptedBackend, picture, producing


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even a text")


class Unnamed(BaseException):
    pass


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


ERRORS = [
    ValueError("no"),
    Unspeakable(),
    Unnamed(),
    SystemExit(3),
    GeneratorExit(),
    CaptureError("\udc80"),
    MemoryError(),
]


def every_second(other: Callable[[CaptureRequest, Slot], Any]) -> Capture:
    """Return what captures something else at odd steps."""
    plain = picture()
    return lambda request, slot: other(request, slot) if request.step % 2 else plain(request, slot)


def check_every_second_is_lost(of: Producing, cause: DropCause = DropCause.CAPTURE_FAILED) -> None:
    for _ in range(6):
        of.producer.step()
    of.producer.settle()
    assert [frame.step for frame in of.frames] == [0, 2, 4]
    assert of.dropped == dict.fromkeys([1, 3, 5], cause)
    assert of.memory.training[TrainingWord.REQUESTED] == 6
    of.settle()
    assert of.is_pool_whole


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("leases", [True, False])
def test_whatever_a_capture_raises_costs_its_frame(error: BaseException, leases: bool) -> None:
    def capture(request: CaptureRequest, slot: Slot) -> Any:
        if leases:
            slot.array(100)
        raise error

    with producing(ScriptedBackend(every_second(capture))) as of:
        check_every_second_is_lost(of)
        assert {trouble.event for trouble in of.troubles} == {"capture.failed"}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_device_raises_costs_its_frame(error: BaseException) -> None:
    class Pending:
        poll = wait = staticmethod(raising(error))

    def capture(request: CaptureRequest, slot: Slot) -> Any:
        slot.array(100)
        return Pending()

    with producing(ScriptedBackend(every_second(capture))) as of:
        check_every_second_is_lost(of)


class Odd:
    """Looks like a number, and is none."""

    def __repr__(self) -> str:
        return "Odd()"

    def __int__(self) -> int:
        raise Unspeakable

    def __mul__(self, other: object) -> Odd:
        return self

    __rmul__ = __mul__


@pytest.mark.parametrize(
    "captured",
    [
        None,
        "a picture",
        Frame(height=-1, width=-3),
        Frame(height=0, width=3),
        Frame(height=2**33, width=1),
        Frame(height=100, width=100),
        Frame(height=2.5, width=8),  # type: ignore[arg-type]
        Frame(height="8", width=8),  # type: ignore[arg-type]
        Frame(height=float("nan"), width=8),  # type: ignore[arg-type]
        Frame(height=Odd(), width=8),  # type: ignore[arg-type]
        Snapshot(nbytes=0),
        Snapshot(nbytes=-1),
        Snapshot(nbytes=5000),
        Snapshot(nbytes=None),  # type: ignore[arg-type]
        Snapshot(nbytes=Odd()),  # type: ignore[arg-type]
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_pending", [False, True])
def test_a_capture_that_is_none_costs_its_frame(captured: Any, is_pending: bool) -> None:
    class Pending:
        def wait(self) -> Any:
            return captured

        poll = wait

    def capture(request: CaptureRequest, slot: Slot) -> Any:
        slot.array(100)
        return Pending() if is_pending and captured is not None else captured

    with producing(ScriptedBackend(every_second(capture))) as of:
        check_every_second_is_lost(of)


def test_a_capture_without_a_picture_in_its_slot_costs_its_frame() -> None:
    with producing(ScriptedBackend(every_second(lambda request, slot: Frame(height=8, width=8)))) as of:
        check_every_second_is_lost(of)


def test_an_interruption_in_a_capture_passes_and_leaves_everything_whole() -> None:
    def capture(request: CaptureRequest, slot: Slot) -> Any:
        slot.array(100)
        raise KeyboardInterrupt

    with producing(ScriptedBackend(every_second(capture))) as of:
        for step in range(6):
            if step % 2:
                with pytest.raises(KeyboardInterrupt):
                    of.producer.step()
            else:
                of.producer.step()
        assert [frame.step for frame in of.frames] == [0, 2, 4]
        assert of.dropped == dict.fromkeys([1, 3, 5], DropCause.CAPTURE_FAILED)
        of.settle()
        assert of.is_pool_whole


def test_a_simulator_that_has_changed_ends_its_clip() -> None:
    def capture(request: CaptureRequest, slot: Slot) -> Any:
        raise SourceChangedError("another model")

    with producing(ScriptedBackend(every_second(capture)), video_interval=1000) as of:
        for _ in range(4):
            of.producer.step()
        assert [frame.step for frame in of.frames] == [0]
        assert of.dropped == {1: DropCause.CAPTURE_FAILED}
        (end,) = (record for record in of.records if record.kind == Kind.CLIP_ENDED)
        assert (end.step, decode(end.text, ClipEnded).has_failed) == (1, True)


def test_sides_and_rates_of_numpy_go_as_plain_numbers() -> None:
    backend = ScriptedBackend(
        picture(np.int64(6), np.int64(10)),  # type: ignore[arg-type]
        width=np.int64(10),
        height=np.int32(6),
        nbytes=np.int64(180),
        steps_per_second=np.float32(30.0),
    )
    with producing(backend) as of:
        (source,) = (stream.to_description() for stream in of.streams)
        assert decode(encode(source), SourceDescription) == source
        assert (source.width, source.height, source.nbytes, source.fps) == (10, 6, 180, 30.0)
        of.producer.step()
        (frame,) = of.frames
        assert (frame.height, frame.width, frame.nbytes) == (6, 10, 180)


def test_a_picture_lies_where_the_journal_says() -> None:
    with producing(ScriptedBackend(picture())) as of:
        for _ in range(3):
            of.producer.step()
        for frame in of.frames:
            data = bytes(of.memory.view[frame.offset : frame.offset + frame.nbytes])
            assert data == bytes([frame.step]) * 192


@pytest.mark.parametrize("policy", [DropPolicy.DROP_NEWEST, DropPolicy.BLOCK])
def test_a_full_queue_refuses_the_frame_or_holds_it(policy: DropPolicy) -> None:
    with producing(ScriptedBackend(picture(), nbytes=192), drop_policy=policy, queue_depth=2) as of:
        captures = of.producer.captures
        for _ in range(3):
            of.producer.step()
        assert [frame.step for frame in of.frames] == [0, 1]
        if policy is DropPolicy.DROP_NEWEST:
            assert of.dropped == {2: DropCause.QUEUE_FULL}
            return
        assert of.dropped == {}
        assert not captures.has_room_for_held()
        of.settle(1)
        assert captures.has_room_for_held()
        captures.take_held()
        assert [frame.step for frame in of.frames] == [0, 1, 2]


def test_block_waits_for_the_memory_of_a_capture_of_unknown_size() -> None:
    sizes = [1, 1, 3, 1]

    def capture(request: CaptureRequest, slot: Slot) -> Snapshot:
        nbytes = sizes[request.step] * 4096
        slot.array(nbytes)[:] = request.step
        return Snapshot(nbytes=nbytes)

    backend = ScriptedBackend(capture)
    with producing(backend, drop_policy=DropPolicy.BLOCK, pool_nbytes=4 * 4096, queue_bytes=3 * 4096) as of:
        captures = of.producer.captures
        for _ in range(3):
            of.producer.step()
        assert [frame.step for frame in of.frames] == [0, 1]
        assert (captures.held[0].request.step, captures.held[0].nbytes) == (2, 3 * 4096)
        of.settle(1)
        assert not captures.has_room_for_held()
        of.settle()
        assert captures.has_room_for_held()
        captures.take_held()
        of.producer.step()
        captures.drop_held()
        assert [frame.step for frame in of.frames] == [0, 1, 2]
        assert of.dropped == {3: DropCause.QUEUE_FULL}
        of.settle()
        assert of.is_pool_whole


def test_a_capture_that_no_queue_could_hold_fails_instead_of_waiting() -> None:
    def capture(request: CaptureRequest, slot: Slot) -> Snapshot:
        slot.array(5 * 4096)
        return Snapshot(nbytes=5 * 4096)

    backend = ScriptedBackend(capture)
    with producing(backend, drop_policy=DropPolicy.BLOCK, pool_nbytes=4 * 4096, queue_bytes=3 * 4096) as of:
        of.producer.step()
        assert not of.producer.captures.held
        assert of.dropped == {0: DropCause.CAPTURE_FAILED}


def test_an_end_is_told_of_after_what_is_on_its_way_and_what_is_held() -> None:
    backend = SyntheticBackend(width=64, height=48, snapshot=True, snapshot_polls=3)
    with producing(backend, drop_policy=DropPolicy.BLOCK, queue_depth=1, video_length=2) as of:
        of.producer.step()
        of.producer.settle()
        of.producer.step()
        of.producer.step()
        of.read()
        assert Kind.CLIP_ENDED not in [record.kind for record in of.records]
        of.settle()
        of.producer.captures.take_held()
        of.producer.settle()
        of.read()
        kinds = [record.kind for record in of.records]
        assert kinds == [Kind.CLIP_BEGAN, Kind.FRAME, Kind.FRAME, Kind.CLIP_ENDED]


def test_what_both_a_clip_and_the_last_seconds_want_is_captured_once() -> None:
    taken: list[int] = []
    plain = picture()

    def capture(request: CaptureRequest, slot: Slot) -> Any:
        taken.append(request.step)
        return plain(request, slot)

    with producing(ScriptedBackend(capture), video_length=3, ring_s=1.0) as of:
        for _ in range(5):
            of.producer.step()
        assert taken == [0, 1, 2, 3, 4]
        by_clip: dict[int, list[int]] = {}
        for frame in of.frames:
            by_clip.setdefault(frame.clip, []).append(frame.step)
        assert by_clip == {0: [0, 1, 2], -1: [0, 1, 2, 3, 4]}
        assert of.memory.training[TrainingWord.REQUESTED] == 3
        began = [decode(record.text, ClipBegan) for record in of.records if record.kind == Kind.CLIP_BEGAN]
        assert [one.is_ring for one in began] == [False, True]
        of.settle()
        assert of.is_pool_whole


def test_a_strict_recorder_raises_from_the_call_after_the_one_that_lost_a_frame() -> None:
    with producing(ScriptedBackend(every_second(raising_capture)), strict=True) as of:
        of.producer.step()
        of.producer.step()
        with pytest.raises(RecordingError, match="no picture"):
            of.producer.step()
        assert of.producer.step_count == 3


def raising_capture(request: CaptureRequest, slot: Slot) -> Any:
    raise CaptureError("no picture")


@pytest.mark.parametrize("method", ["step", "close", "settle", "reset"])
def test_a_backend_that_calls_the_recorder_loses_its_frame(method: str) -> None:
    def capture(request: CaptureRequest, slot: Slot) -> Any:
        getattr(of.producer, method)()

    with producing(ScriptedBackend(every_second(capture))) as of:
        check_every_second_is_lost(of)


def test_a_closed_producer_tells_so_last_and_takes_no_call() -> None:
    backend = ScriptedBackend(picture())
    with producing(backend) as of:
        of.producer.step()
        of.producer.close()
        of.producer.close()
        of.read()
        assert [record.kind for record in of.records][-2:] == [Kind.CLIP_ENDED, Kind.CLOSED]
        assert not backend.is_open
        for call in (of.producer.step, of.producer.reset, of.producer.stop_clip):
            with pytest.raises(RecorderClosedError):
                call()


def test_closing_beside_a_thread_that_steps_waits_for_its_capture_and_tells_so_last() -> None:
    inside, go_on = threading.Event(), threading.Event()
    plain = picture()

    def capture(request: CaptureRequest, slot: Slot) -> Any:
        if request.step == 3:
            inside.set()
            go_on.wait(10)
        return plain(request, slot)

    raised: list[BaseException] = []

    def train() -> None:
        try:
            while True:
                of.producer.step()
        except RecorderClosedError as exc:
            raised.append(exc)

    with producing(ScriptedBackend(capture)) as of:
        training = threading.Thread(target=train)
        training.start()
        assert inside.wait(10)
        closing = threading.Thread(target=of.producer.close)
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()
        go_on.set()
        closing.join(10)
        training.join(10)
        assert len(raised) == 1
        steps = [frame.step for frame in of.frames]
        assert steps[:4] == [0, 1, 2, 3]
        assert of.records[-1].kind == Kind.CLOSED
        assert of.dropped == {}


def test_a_disowned_producer_does_nothing() -> None:
    with producing(ScriptedBackend(picture())) as of:
        of.producer.step()
        before = len(of.frames)
        of.producer.disown()
        head = of.memory.training[TrainingWord.HEAD]
        of.producer.step()
        of.producer.reset()
        of.producer.settle()
        of.producer.close()
        assert of.memory.training[TrainingWord.HEAD] == head
        assert len(of.frames) == before


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_triggers_and_rules_that_raise_anything_end_nothing(error: BaseException) -> None:
    def fail(argument: object) -> bool:
        raise error

    with producing(ScriptedBackend(picture()), step_trigger=fail, keep=fail) as of:
        of.producer.start_clip("own", 2)
        for _ in range(3):
            of.producer.step()
        of.producer.end_episode(episode_return=1.0, terminated=True, truncated=False, info=None)
        of.producer.close()
        assert [frame.step for frame in of.frames] == [0, 1]
        decided = [record for record in of.records if record.kind == Kind.CLIP_DECIDED]
        assert [(record.clip, record.pts) for record in decided] == [(0, 1)]
        assert {trouble.event for trouble in of.troubles} == {"trigger.failed", "keep.failed"}


def test_closing_that_is_interrupted_anywhere_is_done_the_second_time() -> None:
    with ExitStack() as memories:

        def record() -> Producing:
            of = memories.enter_context(producing(ScriptedBackend(picture())))
            for _ in range(3):
                of.producer.step()
            return of

        for of in interrupt_everywhere(record, lambda of: of.producer.close()):
            of.producer.close()
            kinds = [record.kind for record in of.read()]
            assert kinds.count(Kind.FRAME) == 3
            assert kinds[-1] == Kind.CLOSED
            of.producer.close()
            assert of.read() == []
            assert not of.producer.is_recording
            with pytest.raises(RecorderClosedError):
                of.producer.step()


def test_a_second_thread_that_closes_waits_for_the_first() -> None:
    is_closing, may_close = Event(), Event()

    class Slow(ScriptedBackend):
        def close(self) -> None:
            is_closing.set()
            may_close.wait(10.0)

    with producing(Slow(picture())) as of, ThreadPoolExecutor(2) as pool:
        of.producer.step()
        first = pool.submit(of.producer.close)
        assert is_closing.wait(10.0)
        second = pool.submit(of.producer.close)
        assert not second.done()
        assert Kind.CLOSED not in [record.kind for record in of.read()]
        may_close.set()
        first.result(10.0)
        second.result(10.0)
        assert [record.kind for record in of.read()].count(Kind.CLOSED) == 1
