"""`requested == encoded + dropped + pending`, whatever happens in whatever order, and whoever dies."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stepreel import Clip, ClipState, DropCause, DropPolicy, Episode, RecorderClosedError, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.clip import steps_in
from stepreel.config import RenderTime
from stepreel.core import RecorderCore
from stepreel.encoders import protocol
from stepreel.errors import WorkerError
from stepreel.link import Hooks
from stepreel.service.service import RecordingService
from stepreel.service.waking import Notifier
from stepreel.service.worker_slot import WorkerSlot
from stepreel.transport.journal import CAUSES, JournalReader, Kind, ReleaseReader
from stepreel.transport.shared_memory import TrainingWord

from ..recordings import expand, is_balanced
from .played_worker import PlayedDisk, PlayedWorker

T = TypeVar("T")
_ROUNDS = 400


class InlineThreads:
    """Does at once what the service does on threads."""

    async def run(self, call: Any, *arguments: object) -> Any:
        return call(*arguments)


class Pause(Notifier):
    """Lets a task wait that a test drives by hand."""

    async def wait(self, timeout_s: float = 0.0) -> None:
        await _Suspension()


class _Suspension:
    def __await__(self) -> Any:
        yield


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as exc:
        value: T = exc.value
        return value
    raise AssertionError("it waits for something")


class Service:
    """The real recording service, whose tasks take their turns when they are told to."""

    def __init__(self, core: RecorderCore) -> None:
        self._ours, theirs = socket.socketpair()
        core.link.embed(self._ours)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stepreel.service.parts.Threads", InlineThreads)
            self.service = RecordingService(core.memory, theirs)
        self.parts = parts = self.service._parts
        parts.log.appended = Pause()
        parts.channel.is_urgent = True
        self._stack = AsyncExitStack()
        run_now(self.service._open(self._stack))
        self._records = parts.records.run()
        while self.read():  # It looks long before a worker is ready.
            pass

    def read(self) -> bool:
        return self.service._look_once()

    def name(self) -> None:
        run_now(self.parts.feed.namer.name_clips())

    def write(self) -> None:
        self._records.send(None)

    def publish(self) -> None:
        self.parts.recording.publish()
        self.parts.publish_statistics(fresh=True)

    def end(self) -> None:
        """Be gone, with everything that was not published."""
        self._records.close()
        run_now(self._stack.aclose())
        self.parts.channel._socket.close()
        self._ours.close()


class Accounting(RuleBasedStateMachine):
    """The real producer and the real service on both ends of their memory; the rules play workers, and fate."""

    is_hostile = False
    """Workers may report anything."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = self.is_closed = self.is_cut_short = self.is_ended = False
        self.workers: dict[int, PlayedWorker] = {}
        self.heard: list[protocol.Reply] = []
        self.told: dict[int, dict[int, DropCause | None]] = {}
        """By clip: the steps that training has asked for, with the cause of those that it could not take."""
        self.has_failed = False
        """A worker failed to draw: which frames of a lost segment are missing is then a guess, how many is not."""
        self.frames: set[int] = set()
        """Numbers of the records that tell of captures."""
        self.released: set[int] = set()
        self.indices: dict[str, int] = {}
        """Of clips, by name."""

    @initialize(
        policy=st.sampled_from(DropPolicy),
        depth=st.integers(1, 6),
        length=st.integers(1, 9),
        stride=st.integers(1, 3),
        polls=st.integers(-1, 2),
        failing=st.sets(st.integers(0, 60)),
        keep=st.booleans(),
        ring_s=st.none() | st.just(1.0),
        worker_count=st.integers(1, 2),
        streams=st.integers(1, 2),
        durable=st.booleans(),
        later=st.booleans(),
    )
    def open(
        self,
        policy: DropPolicy,
        depth: int,
        length: int,
        stride: int,
        polls: int,
        failing: set[int],
        keep: bool,
        ring_s: float | None,
        worker_count: int,
        streams: int,
        durable: bool,
        later: bool,
    ) -> None:
        length = max(length, stride)
        is_snapshot = polls >= 0
        self.folder = Path(tempfile.mkdtemp(prefix="stepreel-"))
        self.config = RecorderConfig(
            output_dir=self.folder,
            video_length=length,
            video_interval=length + 2,
            frame_stride=stride,
            queue_depth=depth,
            drop_policy=policy,
            keep=_is_good if keep else None,
            ring_s=None if later and is_snapshot else ring_s,
            worker_count=worker_count,
            durable_snapshots=durable,
            render=RenderTime.LATER if later and is_snapshot else RenderTime.NOW,
        )

        def backend() -> SyntheticBackend:
            return SyntheticBackend(
                width=64, height=48, snapshot=is_snapshot, snapshot_polls=max(polls, 0), failing_steps=failing
            )

        backends = {name: backend() for name in ("left", "right")[:streams]} if streams > 1 else backend()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stepreel.core._LEAST_RECORDS", 256)
            patch.setattr("stepreel.core._SPARE_POOL_NBYTES", 0)
            patch.setattr("stepreel.core._IN_HAND_NBYTES", 0)
            self.core = RecorderCore(self.config, backends, Hooks(), may_await=False)
        self.core.link._log.write = lambda *_: None  # type: ignore[method-assign]
        self.producer = self.core.producer
        self.journal = JournalReader(self.core.memory)
        self.releases = ReleaseReader(self.core.memory)
        self.disk = PlayedDisk(self.folder)
        self.service = Service(self.core)
        self.is_open = True

    # Training

    @precondition(lambda self: not self.is_closed)
    @rule(steps=st.integers(1, 8), granted=st.booleans())
    def step(self, steps: int, granted: bool) -> None:
        captures = self.producer.captures
        for _ in range(steps):
            self.producer.step()
            while granted and captures.held and captures.has_room_for_held():
                captures.take_held()
            captures.drop_held()
            self.look_along()

    @precondition(lambda self: not self.is_closed)
    @rule(action=st.sampled_from(["start", "stop", "pause", "resume", "reset", "good", "bad", "save"]))
    def direct(self, action: str) -> None:
        match action:
            case "start":
                self.producer.start_clip(None, None)
            case "stop":
                self.producer.stop_clip()
            case "save":
                if self.config.ring_s:
                    self.producer.save_last(None, None)
            case "good" | "bad":
                episode_return = float(action == "good")
                self.producer.end_episode(episode_return=episode_return, terminated=True, truncated=False, info=None)
            case _:
                getattr(self.producer, action)()
        self.producer.captures.drop_held()

    @precondition(lambda self: not self.is_closed)
    @rule(waits=st.booleans())
    def close(self, waits: bool) -> None:
        if waits:
            self.producer.settle()
        self.producer.close()
        self.is_closed = True
        with pytest.raises(RecorderClosedError):
            self.producer.reset()

    # The service

    @rule()
    def read(self) -> None:
        self.service.read()

    @rule()
    def name(self) -> None:
        self.service.name()
        works = self.service.parts.recording.works.values()
        self.indices |= {work.progress.name: work.index for work in works if work.progress.is_named}

    @rule()
    def write(self) -> None:
        self.service.write()

    @rule(heard=st.booleans())
    def publish(self, heard: bool) -> None:
        self.service.publish()
        if heard:
            self.receive()

    @rule()
    def checkpoint(self) -> None:
        self.service.parts.checkpointer.write()

    @rule(told=st.booleans(), workers_close=st.booleans())
    def another_service_takes_over(self, told: bool, workers_close: bool) -> None:
        if told:
            self.receive()
        self.service.end()
        for worker in self.workers.values():
            if workers_close:
                worker.close()
        self.workers.clear()
        self.service = Service(self.core)
        self.is_ended = False

    @precondition(lambda self: self.is_closed)
    @rule()
    def cut_short(self) -> None:
        self.service.parts.dispatcher.drop_waiting()

    # Workers

    @rule(place=st.integers(0, 1), works=st.sampled_from([True, True, True, False]))
    def start_worker(self, place: int, works: bool) -> None:
        slot = self.slot(place)
        if self.index_of(slot) in self.workers or self.config.render is RenderTime.LATER:
            return
        slot.problem = None if works else "it does not start"
        if not works:
            self.service.parts.dispatcher.worker_lost(slot)
            return
        slot.opened.clear()
        worker = self.workers[self.index_of(slot)] = PlayedWorker(self.disk)
        worker.commands += self.service.parts.dispatcher.opening_commands(slot)
        worker.replies.append(protocol.Ready(codec="libx264", versions={}))

    @rule(place=st.integers(0, 1))
    def dispatch(self, place: int) -> None:
        slot, dispatcher = self.slot(place), self.service.parts.dispatcher
        worker = self.workers.get(self.index_of(slot))
        is_later = self.config.render is RenderTime.LATER
        if is_later or slot.problem:
            for work in list(slot.clips.values()):
                dispatcher.give_up(slot, work, DropCause.NOT_RENDERED if is_later else DropCause.WORKER_LOST)
        elif worker and slot.is_ready:
            worker.commands += dispatcher.next_commands(slot)
        self.service.parts.recording.publish()

    @rule(
        place=st.integers(0, 1),
        commands=st.integers(1, 6),
        cause=st.sampled_from([None, None, None, DropCause.RENDER_FAILED, DropCause.DISK_FULL]),
        splits=st.booleans(),
        kept=st.integers(0, 5),
    )
    def worker_works(self, place: int, commands: int, cause: DropCause | None, splits: bool, kept: int) -> None:
        worker = self.workers.get(self.index_of(self.slot(place)))
        for _ in range(min(commands, len(worker.commands)) if worker else 0):
            assert worker
            self.has_failed |= cause is not None
            worker.perform(cause=cause, splits=splits, kept=kept)

    @rule(place=st.integers(0, 1), count=st.integers(1, 6))
    def hear_worker(self, place: int, count: int) -> None:
        slot = self.slot(place)
        worker = self.workers.get(self.index_of(slot))
        for _ in range(min(count, len(worker.replies)) if worker else 0):
            assert worker
            reply = worker.replies.popleft()
            self.heard.append(reply)
            if not self.take(slot, reply):
                return

    @rule(place=st.integers(0, 1), told=st.integers(0, 4), closes=st.booleans())
    def lose_worker(self, place: int, told: int, closes: bool) -> None:
        slot = self.slot(place)
        if self.index_of(slot) not in self.workers:
            return
        self.hear_worker(place, told)
        worker = self.workers.pop(self.index_of(slot), None)
        if worker is None:
            return
        if closes:
            worker.close()
        self.employ_another(slot)

    @rule(
        place=st.integers(0, 1),
        steps=st.integers(0, 6),
        commands=st.integers(0, 8),
        replies=st.integers(0, 8),
        cause=st.sampled_from([None, None, None, DropCause.RENDER_FAILED, DropCause.DISK_FULL]),
        splits=st.booleans(),
        kept=st.integers(0, 5),
    )
    def everybody_takes_a_turn(
        self, place: int, steps: int, commands: int, replies: int, cause: DropCause | None, splits: bool, kept: int
    ) -> None:
        if not self.is_closed:
            self.step(steps, granted=True)
        self.read()
        self.name()
        self.start_worker(place, works=True)
        self.hear_worker(place, replies)
        self.dispatch(place)
        self.worker_works(place, commands, cause, splits, kept)
        self.hear_worker(place, replies)
        self.write()

    # What always holds

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if not self.is_open:
            return
        self.look_along()
        recording = self.service.parts.recording
        if self.config.drop_policy in (DropPolicy.DROP_OLDEST, DropPolicy.THIN):
            assert recording.queue.depth <= self.config.queue_depth
        for work in recording.works.values():
            assert work.progress.pending >= 0
            if not work.progress.is_silent:
                self.check_clip(work.progress.to_clip(None, is_final=False))
        assert is_balanced(recording.totals.with_open(work.progress for work in recording.works.values()))
        statistics = self.core.statistics()
        assert is_balanced(statistics.frames)
        assert statistics.frames.pending >= 0
        assert statistics.clips_open >= 0

    def check_clip(self, clip: Clip) -> None:
        assert is_balanced(clip.frames)
        assert clip.frames.encoded >= 0
        missing = expand(clip.missing_steps, clip.frame_stride)
        by_cause = {cause: expand(spans, clip.frame_stride) for cause, spans in clip.missing_by_cause.items()}
        assert {cause: len(steps) for cause, steps in by_cause.items() if steps} == clip.frames.dropped
        assert sorted(step for steps in by_cause.values() for step in steps) == missing
        assert len(missing) == len(set(missing)) == clip.frames.dropped_total

    def teardown(self) -> None:
        if not self.is_open:
            return
        try:
            self.finish()
        finally:
            self.service.end()
            self.core.link._service.end()
            self.core.let_go()
            shutil.rmtree(self.folder)

    def finish(self) -> None:
        if not self.is_closed:
            self.producer.stop_clip()
            if self.config.ring_s:
                self.producer.pause()
            self.producer.settle()
            self.drain()
            pool = self.producer._pool
            assert pool.has_room(pool.nbytes)
            assert self.producer.admission.depth == self.producer.admission.nbytes == 0
            saved = sum(clip.frames.requested for clip in self.core.link.clips if self.indices.get(clip.name, 0) < 0)
            told = self.core.memory.training[TrainingWord.REQUESTED]
            assert self.core.statistics().frames.requested == told + saved
            self.close(waits=True)
        self.drain()
        parts = self.service.parts
        assert parts.feed.is_closed
        assert self.frames == self.released
        assert not parts.recording.works
        assert self.core.statistics().frames.pending == 0
        clips = {clip.name: clip for clip in self.core.link.clips}
        assert len(clips) == len(self.core.link.clips)
        for clip in clips.values():
            assert clip.state is not ClipState.RECORDING
            self.check_clip(clip)
            self.hold_against_what_was_told(clip)

    def drain(self) -> None:
        parts = self.service.parts
        for _ in range(_ROUNDS):
            if self.is_closed:
                self.producer.tell_rest()
            else:
                self.producer.settle()
            self.read()
            self.name()
            if parts.feed.is_closed and parts.feed.is_read and not self.is_ended:
                self.is_ended = True
                parts.feed.end_all(self.producer.step_count - 1, None)
            for place in range(self.config.worker_count):
                if not self.workers.get(place):
                    self.start_worker(place, works=True)
                self.worker_works(place, 1000, None, splits=False, kept=1000)
                self.hear_worker(place, 1000)
                self.dispatch(place)
                self.end_silent(place)
            self.write()
            self.publish(heard=True)
            self.checkpoint()
            self.everything_is_accounted_for()
            if parts.is_drained and parts.feed.is_closed == self.is_closed:
                return
        raise AssertionError(f"it does not end: {parts.recording.works}")

    def end_silent(self, place: int) -> None:
        """End a worker that owes an answer, and has nothing to say or to do."""
        slot = self.slot(place)
        worker = self.workers.get(self.index_of(slot))
        if worker and slot.owes_answer and not (worker.commands or worker.replies):
            assert self.is_hostile
            del self.workers[self.index_of(slot)]
            self.employ_another(slot)

    def hold_against_what_was_told(self, clip: Clip) -> None:
        told = self.told_of(clip)
        if told is None:
            return
        encoded = set(told) - steps_in(clip.missing_steps, clip.frame_stride)
        assert clip.frames.requested == len(told)
        assert clip.frames.encoded == len(encoded)
        if self.is_hostile:
            return
        shown = list(chain.from_iterable(self.disk.steps[segment.file] for segment in clip.segments))
        assert len(shown) == len(encoded)
        if not self.has_failed:
            assert shown == sorted(encoded)

    def told_of(self, clip: Clip) -> dict[int, DropCause | None] | None:
        index = self.indices[clip.name]
        return self.told[index] if index >= 0 else None

    # Helpers

    def slot(self, place: int) -> WorkerSlot:
        slots = self.service.parts.dispatcher.slots
        return slots[place % len(slots)]

    def index_of(self, slot: WorkerSlot) -> int:
        return next(place for place, one in enumerate(self.service.parts.dispatcher.slots) if one is slot)

    def employ_another(self, slot: WorkerSlot) -> None:
        self.service.parts.dispatcher.worker_lost(slot)
        slot.is_ready = False

    def take(self, slot: WorkerSlot, reply: protocol.Reply) -> bool:
        """Hear a reply; False where the worker is lost for it."""
        try:
            self.service.parts.reports.take(slot, 1, reply)
        except WorkerError:
            assert self.is_hostile
            del self.workers[self.index_of(slot)]
            self.employ_another(slot)
            return False
        return True

    def receive(self) -> None:
        self.service.parts.channel.hurry()
        for call in self.core.link.receive():
            call.run()

    def look_along(self) -> None:
        """Read the journal and the releases as an onlooker."""
        for record in self.journal.read():
            clip = self.told.setdefault(record.clip, {})
            if record.kind == Kind.FRAME:
                self.frames.add(record.number)
                clip[record.step] = None
            elif record.kind == Kind.FRAMES_DROPPED:
                for step in range(record.step, record.pts + 1, record.width):
                    assert step not in clip
                    clip[step] = CAUSES[record.height]
        self.released.update(self.releases.read())


def _is_good(episode: Episode) -> bool:
    return bool(episode.episode_return)


class HostileAccounting(Accounting):
    """Workers report late, twice, not at all, and of clips that nobody knows; counts still agree."""

    is_hostile = True

    @precondition(lambda self: self.heard)
    @rule(place=st.integers(0, 1), which=st.integers(0, 50))
    def a_report_comes_again(self, place: int, which: int) -> None:
        self.say(place, self.heard[which % len(self.heard)])

    @precondition(lambda self: self.heard)
    @rule(place=st.integers(0, 1), which=st.integers(0, 50), clip=st.integers(-3, 9))
    def a_report_is_of_another_clip(self, place: int, which: int, clip: int) -> None:
        reply = self.heard[which % len(self.heard)]
        if hasattr(reply, "clip"):
            self.say(place, msgspec.structs.replace(reply, clip=clip))

    @rule(place=st.integers(0, 1))
    def a_report_is_missing(self, place: int) -> None:
        worker = self.workers.get(self.index_of(self.slot(place)))
        if worker and worker.replies and not isinstance(worker.replies[0], protocol.Ready):
            worker.replies.popleft()

    def say(self, place: int, reply: protocol.Reply) -> None:
        slot = self.slot(place)
        if self.index_of(slot) in self.workers and slot.is_ready:
            self.take(slot, reply)


SETTINGS = settings(max_examples=60, stateful_step_count=40, deadline=None)
Accounting.TestCase.settings = SETTINGS
TestAccounting = Accounting.TestCase
HostileAccounting.TestCase.settings = SETTINGS
TestHostileAccounting = HostileAccounting.TestCase
