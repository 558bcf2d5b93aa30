"""The event loop in its own thread, called from a thread that is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import count

import anyio
import anyio.lowlevel
import pytest

from stepreel.errors import RecordingError
from stepreel.loop_thread import LoopThread

from .interruptions import Interruption
from .recordings import poll_until


class Content:
    """Tells what becomes of it."""

    def __init__(self, on_flush: Callable[[], None] = lambda: None) -> None:
        self.events: list[str] = []
        self._on_flush = on_flush

    async def __aenter__(self) -> None:
        self.events.append("opened")

    async def __aexit__(self, *_: object) -> None:
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            self.events.append("closed")

    async def flush(self) -> None:
        self._on_flush()
        await anyio.sleep_forever()


class Unopenable(Content):
    async def __aenter__(self) -> None:
        raise ValueError("it does not open")


def opened(content: Content) -> LoopThread:
    loop = LoopThread(content)
    loop.open()
    return loop


def count_threads() -> int:
    return sum(thread.name == "stepreel" for thread in threading.enumerate())


def test_what_opening_raises_is_raised_in_the_calling_thread() -> None:
    loop = LoopThread(Unopenable())
    with pytest.raises(ValueError, match="does not open"):
        loop.open()
    loop.cut_short()
    assert not count_threads()


def test_a_flush_that_takes_too_long_says_so_and_can_be_followed_by_a_close() -> None:
    content = Content()
    loop = opened(content)
    assert not loop.flush(0.01)
    loop.close()
    assert content.events == ["opened", "closed"]
    assert loop.flush(None)  # Nothing is left to wait for.


def test_closing_ends_a_flush_of_another_thread() -> None:
    flushing = threading.Event()
    content = Content(flushing.set)
    loop = opened(content)
    flusher = threading.Thread(target=loop.flush, args=(None,))
    flusher.start()
    flushing.wait()
    loop.close()
    flusher.join()
    assert content.events == ["opened", "closed"]


def test_a_call_from_the_loop_itself_is_refused() -> None:
    errors: list[str] = []

    def close() -> None:
        try:
            loop.close()
        except RecordingError as exc:
            errors.append(str(exc))

    content = Content(close)
    loop = opened(content)
    loop.flush(0.01)
    loop.cut_short()
    assert len(errors) == 1


def every_place(call: Callable[[], object]) -> Iterator[None]:
    """Call it with an interruption at one instruction after the other; yield after each."""
    for place in count():
        interruption = Interruption(place)
        interruption.run(call)
        yield
        if not interruption.came:
            assert place > 5
            return


def test_opening_that_is_interrupted_anywhere_leaves_nothing_open() -> None:
    contents = [Content()]
    loops = [LoopThread(contents[-1])]
    for _ in every_place(lambda: loops[-1].open()):
        loops[-1].cut_short()
        poll_until(lambda: not count_threads())
        contents.append(Content())
        loops.append(LoopThread(contents[-1]))
    assert all(content.events in ([], ["opened", "closed"]) for content in contents)


def test_closing_that_is_interrupted_anywhere_can_be_ended() -> None:
    loops: list[LoopThread] = [opened(content := Content())]
    for _ in every_place(lambda: loops[-1].close()):
        loops[-1].cut_short()
        poll_until(lambda: not count_threads())
        assert content.events == ["opened", "closed"]
        loops.append(opened(content := Content()))
    loops[-1].close()


def test_flushing_that_is_interrupted_anywhere_does_not_keep_the_loop_from_closing() -> None:
    loops: list[LoopThread] = [opened(content := Content())]
    for _ in every_place(lambda: loops[-1].flush(0.0)):
        loops[-1].close()
        assert content.events == ["opened", "closed"]
        loops.append(opened(content := Content()))
    loops[-1].close()
