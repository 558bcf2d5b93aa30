"""The journal, releases and checkpoints: what is written comes out whole, in order, or not at all."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stepreel.errors import WorkerError
from stepreel.transport.journal import (
    Checkpoints,
    JournalReader,
    JournalWriter,
    Kind,
    Record,
    ReleaseReader,
    ReleaseWriter,
)
from stepreel.transport.shared_memory import PAGE, RECORD_NBYTES, Layout, ServiceWord, SharedMemory, TrainingWord

from ..memory import make_memory

MOST_TEXT = 64 * 56


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    with make_memory(records=128, checkpoint_nbytes=PAGE) as memory:
        yield memory


def write_frame(writer: JournalWriter, clip: int = 0, step: int = 0, pts: int = 0, nbytes: int = 1) -> bool:
    return writer.write_frame(writer.next_number(), clip, step, pts, 7, nbytes, 1, 2**32 - 1)


def retain(memory: SharedMemory, position: int) -> None:
    memory.service[ServiceWord.RETAINED] = position


class Journal(RuleBasedStateMachine):
    """Both ends of one memory, and a list of what was said."""

    @initialize(power=st.integers(7, 9))
    def open(self, power: int) -> None:
        layout = Layout(
            record_count=1 << power, description_nbytes=0, checkpoint_nbytes=PAGE, pool_nbytes=PAGE, queue_nbytes=PAGE
        )
        self.memory = SharedMemory.create(layout, b"")
        self.count = 1 << power
        self.writer, self.reader = JournalWriter(self.memory), JournalReader(self.memory)
        self.releases, self.released = ReleaseWriter(self.memory), ReleaseReader(self.memory)
        self.checkpoints = Checkpoints(self.memory)
        self.said: deque[tuple[object, ...]] = deque()
        """What the reader has not seen: kind, clip, step, pts, size and text of each record."""
        self.state: bytes | None = None
        self.settled: list[int] = []
        self.checked = 0
        self.drops = 0
        self.starts: list[int] = []
        """Numbers of the records that were read."""

    @rule(clip=st.integers(-5, 5), step=st.integers(-1, 2**40), nbytes=st.integers(1, 2**40))
    def write_frame(self, clip: int, step: int, nbytes: int) -> None:
        number = self.writer.next_number()
        used = self.memory.training[TrainingWord.HEAD] - self.memory.service[ServiceWord.RETAINED]
        has_room = not self.writer.has_backlog and self.count - used > self.count // 4
        told = write_frame(self.writer, clip, step, 3, nbytes)
        assert told == has_room
        if told:
            assert self.memory.training[TrainingWord.HEAD] == number + 1
            self.said.append((Kind.FRAME, clip, step, 3, nbytes, b""))

    @rule(kind=st.sampled_from([Kind.CLIP_BEGAN, Kind.TROUBLE, Kind.CLIP_ENDED]), text=st.binary(max_size=MOST_TEXT))
    def write_text(self, kind: Kind, text: bytes) -> None:
        self.writer.write(kind, clip=3, step=1, text=text)
        self.said.append((kind, 3, 1, 0, 0, text))

    @rule(count=st.integers(1, 200))
    def write_drops(self, count: int) -> None:
        """Neighbours become one record where they wait, and stay apart where they don't."""
        for _ in range(count):
            self.writer.write(Kind.FRAMES_DROPPED, clip=1, step=self.drops, pts=self.drops, width=1, height=2)
            self.said.append((Kind.FRAMES_DROPPED, 1, self.drops, self.drops, 0, b""))
            self.drops += 1
        assert len(self.writer._backlog) <= 4096

    @rule(most=st.integers(1, 300))
    def read(self, most: int) -> None:
        records = self.reader.read(most)
        assert len(records) <= most
        for record in records:
            self.starts.append(record.number)
            self.hear(record)

    @rule(share=st.floats(0, 1))
    def move_retained(self, share: float) -> None:
        starts = [*(number for number in self.starts if number >= self.memory.service[ServiceWord.RETAINED])]
        self.starts = [*starts, self.reader.position]
        retain(self.memory, self.starts[int((len(self.starts) - 1) * share)])

    @rule()
    def start_another_reader(self) -> None:
        """It finds all that was retained as it was written."""
        retained = self.memory.service[ServiceWord.RETAINED]
        again = JournalReader(self.memory, start=retained)
        records = again.read(10**6)
        assert again.position == again.head
        assert [record.number for record in records][:1] in ([], [retained])

    @rule(number=st.integers(0, 2**50), outcome=st.integers(0, 255))
    def release(self, number: int, outcome: int) -> None:
        before = self.releases.count
        self.releases.write(number, outcome)
        assert self.releases.since(before) == {number: outcome}
        self.settled.append(number)

    @rule()
    def look_at_releases(self) -> None:
        numbers = self.released.read()
        assert numbers == self.settled[self.checked :]
        self.checked = len(self.settled)

    @rule(state=st.binary(min_size=1, max_size=PAGE))
    def checkpoint(self, state: bytes) -> None:
        fits = len(state) + 20 <= PAGE
        assert self.checkpoints.write(state) == fits
        self.state = state if fits else self.state

    @invariant()
    def state_is_the_last_one_written(self) -> None:
        if hasattr(self, "memory"):
            assert Checkpoints(self.memory).read() == self.state

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        while self.said:
            retain(self.memory, self.reader.position)
            self.writer.write_backlog()
            records = self.reader.read()
            assert records
            for record in records:
                self.hear(record)
        assert not self.writer.has_backlog
        assert self.writer.lost == 0
        self.memory.close()

    def hear(self, record: Record) -> None:
        if record.kind == Kind.FRAMES_DROPPED:
            for step in range(record.step, record.pts + 1):
                assert self.said.popleft() == (Kind.FRAMES_DROPPED, record.clip, step, step, 0, b"")
            return
        told = (record.kind, record.clip, record.step, record.pts, record.nbytes, record.text)
        assert told == self.said.popleft()


Journal.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestJournal = Journal.TestCase


@given(place=st.integers(0, 5 * RECORD_NBYTES - 1), mask=st.integers(1, 255), text=st.binary(min_size=1, max_size=200))
def test_a_torn_record_is_never_returned_and_comes_once_it_is_whole(place: int, mask: int, text: bytes) -> None:
    with make_memory(records=128) as memory:
        writer, reader = JournalWriter(memory), JournalReader(memory)
        writer.write(Kind.CLIP_ENDED, clip=1, step=2)
        writer.write(Kind.TROUBLE, clip=4, text=text)
        writer.write(Kind.CLOSED)
        whole = reader.read()
        torn = memory.layout.journal + place
        memory.view[torn] ^= mask
        again = JournalReader(memory)
        found = again.read()
        # Padding behind a text belongs to nobody.
        assert found == whole[: len(found)]
        memory.view[torn] ^= mask
        assert found + again.read() == whole


def test_a_record_whose_places_were_overwritten_is_seen(memory: SharedMemory) -> None:
    writer, reader = JournalWriter(memory), JournalReader(memory)
    for step in range(10):
        writer.write(Kind.CLIP_ENDED, step=step)
    memory.training[TrainingWord.HEAD] = 10 + 128
    with pytest.raises(WorkerError, match="138 records ahead"):
        reader.read()


def test_text_that_is_too_long_is_cut(memory: SharedMemory) -> None:
    JournalWriter(memory).write(Kind.TROUBLE, text=b"a" * 10_000)
    (record,) = JournalReader(memory).read()
    assert record.text == b"a" * MOST_TEXT


def test_frames_leave_room_for_what_ends_a_clip(memory: SharedMemory) -> None:
    writer = JournalWriter(memory)
    frames = 0
    while write_frame(writer, step=frames):
        frames += 1
    assert frames == 96
    for _ in range(32):
        writer.write(Kind.CLIP_ENDED)
    assert not writer.has_backlog
    writer.write(Kind.CLOSED)
    assert writer.has_backlog


def test_what_waits_is_written_in_its_order_and_before_any_frame(memory: SharedMemory) -> None:
    writer, reader = JournalWriter(memory), JournalReader(memory)
    for step in range(200):
        writer.write(Kind.CLIP_ENDED, step=step)
    assert not write_frame(writer)
    steps = [record.step for record in reader.read()]
    retain(memory, reader.position)
    writer.next_number()
    steps += [record.step for record in reader.read()]
    assert steps == list(range(200))
    retain(memory, reader.position)
    assert write_frame(writer)


def test_what_the_backlog_does_not_hold_is_counted(memory: SharedMemory) -> None:
    writer = JournalWriter(memory)
    for step in range(128 + 4096 + 5):
        writer.write(Kind.CLIP_ENDED, step=step)
    assert writer.lost == 5


def test_drops_that_wait_become_one_record_as_long_as_they_are_neighbours(memory: SharedMemory) -> None:
    writer, reader = JournalWriter(memory), JournalReader(memory)
    for _ in range(128):
        writer.write(Kind.CLIP_ENDED)
    for clip, step, cause in [(1, 0, 3), (1, 2, 3), (1, 4, 3), (1, 8, 3), (1, 10, 4), (2, 12, 4)]:
        writer.write(Kind.FRAMES_DROPPED, clip=clip, step=step, pts=step, width=2, height=cause)
    reader.read()
    retain(memory, reader.position)
    writer.write_backlog()
    spans = [(record.clip, record.step, record.pts, record.height) for record in reader.read()]
    assert spans == [(1, 0, 4, 3), (1, 8, 8, 3), (1, 10, 10, 4), (2, 12, 12, 4)]


@given(st.data())
def test_a_checkpoint_that_is_torn_in_the_middle_leaves_the_one_before(data: st.DataObject) -> None:
    with make_memory(checkpoint_nbytes=PAGE) as memory:
        checkpoints = Checkpoints(memory)
        assert checkpoints.read() is None
        states = data.draw(st.lists(st.binary(min_size=1, max_size=300), min_size=2, max_size=5))
        for state in states:
            checkpoints.write(state)
        number = memory.service[ServiceWord.CHECKPOINTS]
        place = memory.layout.checkpoints + (number & 1) * PAGE
        torn = place + data.draw(st.integers(0, 20 + len(states[-1]) - 1))
        memory.view[torn] ^= data.draw(st.integers(1, 255))
        assert checkpoints.read() == states[-2]
        # One that was never announced changes nothing, whatever of it was written.
        memory.service[ServiceWord.CHECKPOINTS] = number - 1
        assert checkpoints.read() == states[-2]


def test_a_checkpoint_that_is_too_large_leaves_the_one_before(memory: SharedMemory) -> None:
    checkpoints = Checkpoints(memory)
    assert checkpoints.write(b"small")
    assert not checkpoints.write(bytes(PAGE))
    assert checkpoints.read() == b"small"


WRITING = """
import sys
from stepreel.transport.journal import JournalWriter, Kind, ReleaseReader
from stepreel.transport.shared_memory import SharedMemory
memory = SharedMemory.attach(int(sys.argv[1]))
writer = JournalWriter(memory)
step = refused = 0
while step < int(sys.argv[2]):
    if step % 7 == 0:
        writer.write(Kind.TROUBLE, step=step, text=str(step).encode() * (step % 40))
    elif not writer.write_frame(writer.next_number(), 1, step, step, step, step, step % 2**16, 0):
        refused += 1
        continue
    step += 1
while writer.has_backlog:
    writer.write_backlog()
writer.write(Kind.CLOSED, step=refused)
while writer.has_backlog:
    writer.write_backlog()
"""


def test_another_process_reads_what_one_writes_as_fast_as_it_can() -> None:
    count = 20_000
    with make_memory(records=256) as memory:
        reader = JournalReader(memory)
        writing = subprocess.Popen([sys.executable, "-c", WRITING, str(memory.fd), str(count)], pass_fds=(memory.fd,))
        try:
            step = 0
            while True:
                records = reader.read(100)
                assert records or writing.poll() in (None, 0)
                for record in records:
                    if record.kind == Kind.CLOSED:
                        break
                    assert record.step == step
                    if step % 7:
                        assert record[1:9] == (Kind.FRAME, 1, step, step, step, step, step % 2**16, 0)
                    else:
                        assert (record.kind, record.text) == (Kind.TROUBLE, str(step).encode() * (step % 40))
                    step += 1
                else:
                    retain(memory, reader.position)
                    continue
                break
            assert step == count
            assert writing.wait(10) == 0
        finally:
            writing.kill()
            writing.wait()
