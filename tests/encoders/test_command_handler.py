"""What a worker does with its commands, in one process and with real encoders."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stepreel import CaptureError, DropCause, RecorderConfig, WorkerPriority
from stepreel.encoders import protocol
from stepreel.encoders.command_handler import CommandHandler
from stepreel.encoders.priorities import Priorities
from stepreel.encoders.renderer_host import RendererHost

from ..test_errors import Unspeakable

WIDTH, HEIGHT = 320, 180
FRAMES = 6
FPS = 20.0
WRONG_STEP = 2


class Interruption(BaseException):
    """Derived from no `Exception`."""


FAILURES: dict[str, Callable[[], BaseException]] = {
    "CaptureError: no picture": lambda: CaptureError("no picture"),
    "SystemExit: 3": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "Interruption": Interruption,
    "Unspeakable": lambda: Unspeakable(SystemExit(4)),
}


@dataclass
class FailingRenderer:
    """Draws grey, and fails at one step, or wherever else it is asked to."""

    message: str
    fails_to_open: bool = False
    fails_to_close: bool = False
    name: str = "failing"
    _picture: NDArray[np.uint8] = field(default_factory=lambda: np.full((HEIGHT, WIDTH, 3), 128, np.uint8))

    def open(self) -> None:
        if self.fails_to_open:
            raise FAILURES[self.message]()

    def render(self, snapshot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if snapshot[0] == WRONG_STEP:
            raise FAILURES[self.message]()
        return self._picture

    def close(self) -> None:
        if self.fails_to_close:
            raise FAILURES[self.message]()


class Conversation:
    """A handler, and all that it answered."""

    def __init__(self, folder: Path, *, render_duty: float = 1.0) -> None:
        self.replies: list[protocol.Reply] = []
        self.rests: list[float] = []
        self._folder = folder
        self._render_duty = render_duty
        self._handler = CommandHandler(
            np.arange(256, dtype=np.uint8),
            self.replies.append,
            host=RendererHost(self.replies.append, nullcontext),
            priorities=Priorities(),
            rest=self.rests.append,
        )

    def open(self, renderer: FailingRenderer | None = None) -> None:
        self.tell(
            protocol.Configure(folder=self._folder, priority=WorkerPriority.NORMAL, min_free_bytes=0, stream_count=1)
        )
        self.tell(
            protocol.OpenStream(
                stream="default",
                version=0,
                width=WIDTH,
                height=HEIGHT,
                settings=RecorderConfig(output_dir=self._folder, codec="libx264").encode_settings(fps=FPS),
                render_duty=self._render_duty,
                payload=pickle.dumps(renderer or FailingRenderer("CaptureError: no picture")),
            )
        )

    def begin(self, *, ring_s: float = 0.0) -> None:
        self.tell(
            protocol.BeginClip(
                clip=1,
                stream="default",
                version=0,
                name="clip",
                start_step=0,
                frame_stride=1,
                first_index=0,
                ring_s=ring_s,
                ring_nbytes=10**6,
            )
        )

    def encode(self, steps: range = range(FRAMES)) -> None:
        for step in steps:
            self.tell(protocol.EncodeFrame(clip=1, step=step, pts=step, offset=step, nbytes=1, height=0, width=0))

    def tell(self, command: protocol.Command) -> None:
        self._handler.handle(command)

    def close(self) -> None:
        self._handler.close()

    @property
    def dropped(self) -> dict[int, tuple[DropCause, str]]:
        done = [reply for reply in self.replies if isinstance(reply, protocol.FrameDone)]
        return {reply.step: (reply.cause, reply.message) for reply in done if reply.cause}


Converse = Callable[..., Conversation]


@pytest.fixture
def converse() -> Iterator[Converse]:
    with ExitStack() as stack:

        def begin(folder: Path, **settings: float) -> Conversation:
            return stack.enter_context(closing(Conversation(folder, **settings)))

        yield begin


@pytest.mark.parametrize("message", FAILURES)
def test_whatever_a_renderer_raises_costs_its_frame_only(converse: Converse, tmp_path: Path, message: str) -> None:
    worker = converse(tmp_path)
    worker.open(FailingRenderer(message))
    worker.begin()
    worker.encode()
    worker.tell(protocol.EndClip(clip=1, end_pts=FRAMES))
    assert worker.dropped == {WRONG_STEP: (DropCause.RENDER_FAILED, message)}
    (closed,) = (reply.segment for reply in worker.replies if isinstance(reply, protocol.SegmentClosed))
    assert (closed.file, closed.frames) == ("clip.mp4", FRAMES - 1)
    assert isinstance(worker.replies[-1], protocol.ClipDone)


@pytest.mark.parametrize("message", FAILURES)
def test_a_renderer_that_can_not_be_opened_costs_its_frames_and_is_tried_again(
    converse: Converse, tmp_path: Path, message: str
) -> None:
    worker = converse(tmp_path)
    worker.open(FailingRenderer(message, fails_to_open=True))
    worker.begin()
    worker.encode(range(1))
    failed = [reply.message for reply in worker.replies if isinstance(reply, protocol.StreamFailed)]
    assert failed == [message] * 2
    assert worker.dropped[0][0] is DropCause.RENDER_FAILED


@pytest.mark.parametrize("message", FAILURES)
def test_a_renderer_that_can_not_be_closed_does_not_keep_segments_from_being_closed(
    converse: Converse, tmp_path: Path, message: str
) -> None:
    worker = converse(tmp_path)
    worker.open(FailingRenderer(message, fails_to_close=True))
    worker.begin()
    worker.encode(range(1))
    worker.close()
    assert [path.name for path in tmp_path.glob("clip*")] == ["clip.mp4"]


def test_rests_keep_the_share_of_time_spent_drawing(converse: Converse, tmp_path: Path) -> None:
    worker = converse(tmp_path, render_duty=0.25)
    worker.open()
    worker.begin()
    worker.encode()
    drawn_s = [reply.render_s for reply in worker.replies if isinstance(reply, protocol.FrameDone)]
    assert worker.rests == pytest.approx([3 * one for one in drawn_s])


def test_a_worker_without_a_duty_never_rests(converse: Converse, tmp_path: Path) -> None:
    worker = converse(tmp_path)
    worker.open()
    worker.begin()
    worker.encode()
    assert worker.rests == []


def test_a_ring_writes_nothing_until_it_is_saved(converse: Converse, tmp_path: Path) -> None:
    worker = converse(tmp_path)
    worker.open()
    worker.begin(ring_s=1.0)
    worker.encode()
    assert not list(tmp_path.glob("*.mp4*"))
    worker.tell(protocol.EndClip(clip=1, end_pts=FRAMES, saved_as="last", seconds=1.0))
    saved, closed, done = worker.replies[-3:]
    assert isinstance(saved, protocol.RingSaved)
    assert (saved.steps, saved.cause) == ([0, 1, 3, 4, 5], None)
    assert isinstance(closed, protocol.SegmentClosed)
    assert isinstance(done, protocol.ClipDone)
    with av.open(str(tmp_path / "last.mp4")) as container:
        assert [round((frame.time or 0.0) * FPS) for frame in container.decode(video=0)] == [0, 1, 3, 4, 5]


def test_a_ring_takes_no_file_of_another_clip_away(converse: Converse, tmp_path: Path) -> None:
    (tmp_path / "clip.000.mp4.part").write_text("another's")
    worker = converse(tmp_path)
    worker.open()
    worker.begin(ring_s=1.0)
    assert (tmp_path / "clip.000.mp4.part").read_text() == "another's"


def test_a_clip_whose_file_can_not_be_written_is_given_up_once(converse: Converse, tmp_path: Path) -> None:
    worker = converse(tmp_path)
    worker.open()
    worker.begin()
    (tmp_path / "clip.000.mp4.part").write_text("in the way")
    worker.encode(range(2))
    assert [cause for cause, _ in worker.dropped.values()] == [DropCause.ENCODE_FAILED] * 2
    worker.tell(protocol.EndClip(clip=1, end_pts=FRAMES))
    assert isinstance(worker.replies[-1], protocol.ClipDone)
