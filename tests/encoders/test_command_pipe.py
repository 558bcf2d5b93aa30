"""Commands come out of the pipe in order, and no rest outlasts them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from stepreel import WorkerError
from stepreel.encoders.command_pipe import CommandPipe
from stepreel.encoders.protocol import Command, EndClip, Finish, to_bytes

END = EndClip(clip=1, end_pts=8)
LONG_S = 60.0


@dataclass
class Ends:
    """Both pipes of a worker, as its parent has them."""

    pipe: CommandPipe
    command_fd: int
    orphaned_fd: int

    def tell(self, data: bytes) -> None:
        os.write(self.command_fd, data)

    def close_commands(self) -> None:
        os.close(self.command_fd)
        self.command_fd = -1

    def die(self) -> None:
        os.write(self.orphaned_fd, b"\0")


@pytest.fixture
def ends() -> Iterator[Ends]:
    command, orphaned = os.pipe(), os.pipe()
    made = Ends(CommandPipe(command[0], orphaned[0]), command[1], orphaned[1])
    yield made
    for fd in (command[0], *orphaned, made.command_fd):
        if fd >= 0:
            os.close(fd)


def never() -> bool:
    return False


def test_commands_come_in_order_up_to_the_last_word(ends: Ends) -> None:
    told: list[Command] = [EndClip(clip=number, end_pts=8) for number in range(5)]
    ends.tell(b"".join(to_bytes(one) for one in [*told, Finish(), END]))
    assert list(ends.pipe) == told


def test_commands_end_with_the_pipe(ends: Ends) -> None:
    ends.tell(to_bytes(END))
    ends.close_commands()
    assert list(ends.pipe) == [END]


def test_commands_that_were_sent_before_the_parent_died_are_performed(ends: Ends) -> None:
    ends.tell(to_bytes(END))
    ends.die()
    assert list(ends.pipe) == [END]


def test_what_is_no_command_is_an_error(ends: Ends) -> None:
    ends.tell(b"\0\0\0\1\xc0")
    with pytest.raises(WorkerError):
        next(iter(ends.pipe))


@pytest.mark.parametrize("how", ["told", "closed", "orphaned"])
def test_a_rest_ends_with_the_commands(ends: Ends, how: str) -> None:
    act = {"told": lambda: ends.tell(to_bytes(Finish())), "closed": ends.close_commands, "orphaned": ends.die}[how]
    timer = threading.Timer(0.1, act)
    start = time.monotonic()
    timer.start()
    ends.pipe.rest(LONG_S, never)
    assert time.monotonic() - start < LONG_S / 2
    timer.join()
    ends.pipe.rest(LONG_S, never)  # Nor does another one begin.
    assert time.monotonic() - start < LONG_S / 2


def test_a_rest_is_cut_short(ends: Ends) -> None:
    start = time.monotonic()
    ends.pipe.rest(LONG_S, lambda: time.monotonic() - start > 0.1)
    assert 0.1 < time.monotonic() - start < LONG_S / 2


def test_a_rest_takes_its_time_and_loses_no_command_that_comes_meanwhile(ends: Ends) -> None:
    start = time.monotonic()
    ends.tell(to_bytes(END))
    ends.pipe.rest(0.1, never)
    assert time.monotonic() - start >= 0.1
    ends.tell(to_bytes(Finish()))
    assert list(ends.pipe) == [END]
