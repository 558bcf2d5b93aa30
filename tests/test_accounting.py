"""`requested == encoded + dropped + pending`, whatever happens in whatever order."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import anyio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stepreel import ClipState, DropCause, DropPolicy, RecorderClosedError, RecorderConfig, Segment
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.doorbell import Doorbell
from stepreel.frame_pool import FramePool
from stepreel.ledger import ClipAccount, Ledger, add_counts
from stepreel.producer import ClipEnded, ClipOpened, Producer
from stepreel.scheduling.frame_queue import FrameQueue, QueuedFrame
from stepreel.stream import open_streams

from .recordings import expand, is_balanced


class Accounting(RuleBasedStateMachine):
    """The real producer, queue, pool and ledger; the rules play the event loop and a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts: dict[int, ClipAccount] = {}
        self.ended: set[int] = set()
        self.in_flight: deque[QueuedFrame] = deque()
        self.open_segment: dict[int, list[int]] = {}
        self.closed = False

    @initialize(
        policy=st.sampled_from(DropPolicy),
        depth=st.integers(1, 6),
        length=st.integers(1, 9),
        stride=st.integers(1, 3),
        polls=st.integers(0, 2),
        failing=st.sets(st.integers(0, 60)),
    )
    def open(self, policy: DropPolicy, depth: int, length: int, stride: int, polls: int, failing: set[int]) -> None:
        length = max(length, stride)
        config = RecorderConfig(
            output_dir="unused",
            video_length=length,
            video_interval=length + 2,
            frame_stride=stride,
            queue_depth=depth,
            drop_policy=policy,
        )
        backend = SyntheticBackend(snapshot=bool(polls), snapshot_polls=polls, failing_steps=failing)
        self.pool = FramePool(32 * 320 * 180 * 3)
        self.doorbell = Doorbell()
        self.queue = FrameQueue(depth=depth, nbytes=config.queue_bytes, policy=policy)
        self.ledger = Ledger(Path())
        self.producer = Producer(
            config,
            open_streams(config, backend),
            queue=self.queue,
            pool=self.pool,
            ledger=self.ledger,
            doorbell=self.doorbell,
        )

    @precondition(lambda self: not self.closed)
    @rule(steps=st.integers(1, 8), granted=st.booleans())
    def step(self, steps: int, granted: bool) -> None:
        for _ in range(steps):
            self.producer.step()
            while self.producer.held:
                self.producer.settle_held(granted=granted)

    @precondition(lambda self: not self.closed)
    @rule(action=st.sampled_from(["start", "stop", "pause", "resume", "reset"]))
    def direct(self, action: str) -> None:
        match action:
            case "start":
                self.producer.start_clip(None, None)
            case "stop":
                self.producer.stop_clip()
            case _:
                getattr(self.producer, action)()

    @rule(frames=st.integers(1, 3))
    def worker_takes(self, frames: int) -> None:
        self.hear()
        for _ in range(frames):
            frame = self.queue.get_nowait(self.accounts)
            if frame:
                self.in_flight.append(frame)

    @precondition(lambda self: self.in_flight)
    @rule(cause=st.none() | st.sampled_from([DropCause.RENDER_FAILED, DropCause.DISK_FULL]))
    def worker_reports(self, cause: DropCause | None) -> None:
        frame = self.in_flight.popleft()
        frame.slot.release()
        account = self.accounts[frame.clip_index]
        if cause:
            account.frame_dropped(frame.request.step, cause)
            return
        account.frame_encoded(frame.request.step)
        steps = self.open_segment.setdefault(frame.clip_index, [])
        if not steps:
            account.segment_opened("segment.mp4.part")
        steps.append(frame.request.step)

    @precondition(lambda self: any(self.open_segment.values()))
    @rule(kept=st.integers(0, 5), lost=st.booleans())
    def segment_ends(self, kept: int, lost: bool) -> None:
        clip, steps = next((clip, steps) for clip, steps in self.open_segment.items() if steps)
        left = steps[: min(kept, len(steps))] if lost else steps
        segment = Segment(
            file="segment.mp4",
            first_step=steps[0],
            last_step=left[-1] if left else steps[0],
            frames=len(left),
            nbytes=1,
            duration_s=1.0,
        )
        if lost:
            self.accounts[clip].segment_lost(segment if left else None, DropCause.WORKER_LOST)
        else:
            self.accounts[clip].segment_closed(segment)
        self.open_segment[clip] = []

    @rule()
    def worker_is_lost(self) -> None:
        for frame in self.in_flight:
            frame.slot.release()
            self.accounts[frame.clip_index].frame_dropped(frame.request.step, DropCause.WORKER_LOST)
        self.in_flight.clear()

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        self.producer.close()
        self.closed = True
        while self.producer.held:
            self.producer.settle_held(granted=False)
        try:
            self.producer.reset()
        except RecorderClosedError:
            return
        raise AssertionError("a closed producer goes on")

    def hear(self) -> None:
        while self.producer.news:
            match self.producer.news.popleft():
                case ClipOpened(account=account):
                    self.accounts[account.request.clip_index] = account
                case ClipEnded(account=account):
                    self.ended.add(account.request.clip_index)

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert is_balanced(self.ledger.counts)
        for account in self.ledger.open_accounts:
            clip = account.to_clip()
            assert is_balanced(clip.frames)
            assert clip.frames.pending >= 0
            missing = expand(clip.missing_steps, clip.frame_stride)
            assert len(missing) == len(set(missing)) == clip.frames.dropped_total
            by_cause = {cause: expand(spans, clip.frame_stride) for cause, spans in clip.missing_by_cause.items()}
            assert {cause: len(steps) for cause, steps in by_cause.items()} == clip.frames.dropped
            assert sorted(step for steps in by_cause.values() for step in steps) == missing

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        if not self.closed:
            self.close()
        self.hear()
        self.worker_is_lost()
        for clip in self.accounts:
            for frame in self.queue.discard(clip):
                frame.slot.release()
                self.accounts[clip].frame_dropped(frame.request.step, DropCause.CLOSED)
        counts = [self.ledger.close(account).frames for account in self.accounts.values()]
        assert set(self.accounts) == self.ended
        assert add_counts(counts) == self.ledger.counts
        assert self.ledger.counts.pending == 0
        assert all(clip.state is not ClipState.RECORDING for clip in self.ledger.closed_clips)
        assert self.pool.lease().array(self.pool.nbytes).nbytes == self.pool.nbytes
        anyio.run(self.close_doorbell)

    async def close_doorbell(self) -> None:
        self.doorbell.close()


Accounting.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAccounting = Accounting.TestCase
