"""The ledger: what was asked for and what became of it, clip by clip."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

from .clip import Clip, ClipRequest, ClipState, DropCause, FrameCounts, Ranges, Segment, SnapshotFile


class _Steps:
    """Steps in the order in which they were added, kept as ranges of neighbours: long clips have few of those."""

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self._ends = array("q")
        """First and last step of each range, one after the other."""
        self.count = 0

    def add(self, step: int) -> None:
        self.count += 1
        if self._ends and step - self._ends[-1] == self._stride:
            self._ends[-1] = step
        else:
            self._ends.extend((step, step))

    def add_all(self, steps: _Steps) -> None:
        self.count += steps.count
        self._ends.extend(steps._ends)

    def take_first(self, count: int) -> None:
        """Forget the steps that were added first."""
        self.count -= min(count, self.count)
        whole = 0
        while count and whole < len(self._ends):
            first, last = self._ends[whole : whole + 2]
            length = (last - first) // self._stride + 1
            if length > count:
                self._ends[whole] = first + count * self._stride
                break
            count -= length
            whole += 2
        del self._ends[:whole]

    def ranges(self) -> Ranges:
        """Return inclusive ranges of neighbours, ascending."""
        found: list[tuple[int, int]] = []
        for first, last in sorted(zip(self._ends[::2], self._ends[1::2], strict=True)):
            if found and first - found[-1][1] == self._stride:
                found[-1] = (found[-1][0], last)
            else:
                found.append((first, last))
        return tuple(found)


class ClipAccount:
    """The books of one clip. Safe to call from any thread.

    A frame is pending from its request until it is dropped or reported encoded. Frames of the open segment count
    as encoded, and are counted as dropped after all where a lost worker took them along.
    """

    def __init__(self, request: ClipRequest, *, folder: Path, backend: str, fps: float) -> None:
        self.request = request
        self.folder = folder
        self.name = request.name
        self.is_named = False
        """A file name was reserved for it."""
        self.is_undecided = False
        """Whether it stays is decided at the end of an episode; nobody hears of it before."""
        self.is_unwanted = False
        """It is to be deleted."""
        self.fps = fps
        self.end_step: int | None = None
        self.width: int | None = None
        self.height: int | None = None
        self.codec: str | None = None
        self.open_segment: str | None = None
        self.state = ClipState.RECORDING
        self.backend = backend
        self._lock = Lock()
        self._pending: set[int] = set()
        self._encoded = 0
        self._dropped: Counter[DropCause] = Counter()
        self._missing: dict[DropCause, _Steps] = {}
        self._open_steps = _Steps(request.frame_stride)
        self._segments: list[Segment] = []
        self._salvaged = False
        self.segments_opened = 0
        self.kept = 0
        """Dropped frames whose snapshots are kept."""
        self.snapshots: SnapshotFile | None = None
        self._has_failed = False

    @property
    def counts(self) -> FrameCounts:
        """What was requested, and became of it."""
        with self._lock:
            return self._counts()

    @property
    def pending(self) -> int:
        """Frames requested and neither dropped nor encoded."""
        with self._lock:
            return len(self._pending)

    def frame_requested(self, step: int) -> None:
        """Book a request, before anything can become of it."""
        with self._lock:
            self._pending.add(step)

    def frame_dropped(self, step: int, cause: DropCause) -> None:
        """Book a requested frame that comes into no segment."""
        with self._lock:
            self._drop(step, cause)

    def frame_encoded(self, step: int) -> None:
        """Book a frame that went into the open segment."""
        with self._lock:
            self._pending.remove(step)
            self._encoded += 1
            self._open_steps.add(step)

    def drop_pending(self, cause: DropCause, *, but: Container[int] = ()) -> int:
        """Book as dropped what is pending, except for the steps in `but`; return how many these are."""
        with self._lock:
            steps = [step for step in sorted(self._pending) if step not in but]
            for step in steps:
                self._drop(step, cause)
            return len(steps)

    def segment_opened(self, file: str) -> None:
        """Book the segment, named `file`, that frames go into from now on."""
        with self._lock:
            self.segments_opened += 1
            self.open_segment = file

    def segment_closed(self, segment: Segment) -> None:
        """Book a segment that is whole on disk: it holds the first of the steps that were open."""
        with self._lock:
            self._segments.append(segment)
            self._open_steps.take_first(segment.frames)
            self.open_segment = None

    def segment_lost(self, salvaged: Segment | None, cause: DropCause, *, is_kept: bool = False) -> int:
        """Book the end of an open segment of which at most `salvaged` is left; return the frames lost.

        `is_kept`: its file is still there, unfinished, and stays in the manifest.
        """
        with self._lock:
            if not is_kept:
                self.open_segment = None
            if salvaged:
                self._segments.append(salvaged)
                self._salvaged = True
                self._open_steps.take_first(salvaged.frames)
            lost, self._open_steps = self._open_steps, _Steps(self.request.frame_stride)
            self._encoded -= lost.count
            self._dropped[cause] += lost.count
            if lost.count:
                self._missing_by(cause).add_all(lost)
            return lost.count

    def fail(self) -> None:
        """Book that the clip could not go on, whatever it holds by now."""
        with self._lock:
            self._has_failed = True

    def discard(self) -> None:
        """Book all that was encoded as dropped: its files are gone."""
        with self._lock:
            self._dropped[DropCause.DISCARDED] += self._encoded
            self._encoded = 0

    def snapshots_closed(self, snapshots: SnapshotFile | None) -> None:
        """Book what was kept in the end of snapshots that nobody drew."""
        with self._lock:
            self.snapshots = snapshots
            self.kept = snapshots.frames if snapshots else 0
            self.state = self._final_state()

    def close(self) -> None:
        """Settle the state, once every requested frame is accounted for."""
        with self._lock:
            self.state = self._final_state()

    def to_clip(self) -> Clip:
        """Return what is known now."""
        with self._lock:
            by_cause = {cause: steps.ranges() for cause, steps in self._missing.items()}
            return Clip(
                name=self.name,
                stream=self.request.stream,
                backend=self.backend,
                state=self.state,
                start_step=self.request.start_step,
                end_step=self.end_step,
                frame_stride=self.request.frame_stride,
                fps=self.fps,
                width=self.width,
                height=self.height,
                codec=self.codec,
                frames=self._counts(),
                missing_steps=self._missing_steps(by_cause),
                missing_by_cause=by_cause,
                segments=tuple(self._segments),
                open_segment=self.open_segment,
                snapshots=self.snapshots,
                folder=self.folder,
            )

    def _drop(self, step: int, cause: DropCause) -> None:
        self._pending.remove(step)
        self._dropped[cause] += 1
        self._missing_by(cause).add(step)

    def _missing_by(self, cause: DropCause) -> _Steps:
        return self._missing.setdefault(cause, _Steps(self.request.frame_stride))

    def _missing_steps(self, by_cause: Mapping[DropCause, Ranges]) -> Ranges:
        if len(by_cause) == 1:
            return next(iter(by_cause.values()))
        together = _Steps(self.request.frame_stride)
        for steps in self._missing.values():
            together.add_all(steps)
        return together.ranges()

    def _counts(self) -> FrameCounts:
        dropped = {cause: count for cause, count in self._dropped.items() if count}
        requested = self._encoded + sum(dropped.values()) + len(self._pending)
        return FrameCounts(requested=requested, encoded=self._encoded, dropped=dropped, pending=len(self._pending))

    def _final_state(self) -> ClipState:
        if not self._encoded and self._counts().requested:
            return ClipState.UNRENDERED if self.kept else ClipState.FAILED
        if self._has_failed:
            return ClipState.FAILED
        if self._salvaged:
            return ClipState.RECOVERED
        return ClipState.INCOMPLETE if sum(self._dropped.values()) else ClipState.COMPLETE


class RingAccount(ClipAccount):
    """The books of what is held in memory, which go back no further than it may.

    Nobody hears of it before it was saved; then it is the account of a clip.
    """

    _MOST_DROPS = 65536

    def __init__(self, request: ClipRequest, *, folder: Path, backend: str, fps: float) -> None:
        super().__init__(request, folder=folder, backend=backend, fps=fps)
        self._drops: deque[tuple[int, DropCause]] = deque(maxlen=self._MOST_DROPS)
        self.seconds = 0.0
        """How much of it is to be written; 0: nothing."""
        self.is_saved = False
        """Its file was written, or can't be."""

    def frame_encoded(self, step: int) -> None:
        """Book a frame that is held now."""
        with self._lock:
            self._pending.remove(step)

    def saved(self, steps: Sequence[int], *, width: int, height: int, codec: str) -> None:
        """Book what was written: the clip begins with the first of `steps`. No steps: nothing was held."""
        with self._lock:
            self.is_saved = True
            if not steps:
                self._has_failed = True
                return
            self.width, self.height, self.codec = width, height, codec
            self.request = replace(self.request, start_step=steps[0])
            self._encoded = len(steps)
            for step in steps:
                self._open_steps.add(step)
            for step, cause in sorted(self._drops):
                if step > steps[0]:
                    self._dropped[cause] += 1
                    self._missing_by(cause).add(step)

    def failed(self) -> None:
        """Book that nothing could be written."""
        with self._lock:
            self.is_saved = self._has_failed = True

    def _drop(self, step: int, cause: DropCause) -> None:
        self._pending.remove(step)
        self._drops.append((step, cause))


class Ledger:
    """The accounts of every clip of a recorder, in the order of their opening. Safe to call from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._drawn_by: dict[str, str] = {}
        self._open: dict[int, ClipAccount] = {}
        self._closed: list[Clip] = []
        self._closed_counts = FrameCounts()
        self.discarded_count = 0

    def open(self, request: ClipRequest, *, backend: str, fps: float) -> ClipAccount:
        """Open the account of a clip."""
        drawn_by = self._drawn_by.get(request.stream, backend)
        kind = RingAccount if request.is_ring else ClipAccount
        account = kind(request, folder=self._folder, backend=drawn_by, fps=fps)
        with self._lock:
            self._open[request.clip_index] = account
        return account

    def drawn_by(self, stream: str, backend: str) -> None:
        """Book what really draws a stream, where that is only known once a worker has opened it."""
        with self._lock:
            self._drawn_by[stream] = backend
            for account in self._open.values():
                if account.request.stream == stream:
                    account.backend = backend

    def account(self, clip_index: int) -> ClipAccount | None:
        """Return the account of a clip that is open; None where it never was, or is closed."""
        with self._lock:
            return self._open.get(clip_index)

    def close(self, account: ClipAccount) -> Clip:
        """Settle an account for good; return its clip."""
        account.close()
        clip = account.to_clip()
        with self._lock:
            del self._open[account.request.clip_index]
            self._closed.append(clip)
            self._closed_counts = add_counts((self._closed_counts, clip.frames))
        return clip

    def forget(self, account: ClipAccount) -> None:
        """Settle the account of what was held in memory, and was never asked for."""
        with self._lock:
            del self._open[account.request.clip_index]

    def discard(self, account: ClipAccount) -> Clip:
        """Settle the account of a clip whose files are gone; return its clip, which is kept nowhere."""
        account.discard()
        clip = account.to_clip()
        with self._lock:
            del self._open[account.request.clip_index]
            self._closed_counts = add_counts((self._closed_counts, clip.frames))
            self.discarded_count += 1
        return clip

    @property
    def open_accounts(self) -> tuple[ClipAccount, ...]:
        """Those of clips that are not closed."""
        with self._lock:
            return tuple(account for account in self._open.values() if _is_clip(account))

    @property
    def closed_clips(self) -> tuple[Clip, ...]:
        """Every closed clip, in the order of closing."""
        with self._lock:
            return tuple(self._closed)

    @property
    def counts(self) -> FrameCounts:
        """The sum over all clips, open ones included."""
        with self._lock:
            return add_counts(
                (self._closed_counts, *(account.counts for account in self._open.values() if _is_clip(account)))
            )


def _is_clip(account: ClipAccount) -> bool:
    return not isinstance(account, RingAccount) or account.is_saved


def add_counts(counts: Iterable[FrameCounts]) -> FrameCounts:
    """Return the sum."""
    requested = encoded = pending = 0
    dropped: Counter[DropCause] = Counter()
    for one in counts:
        requested += one.requested
        encoded += one.encoded
        pending += one.pending
        dropped.update(one.dropped)
    return FrameCounts(requested=requested, encoded=encoded, dropped=dict(dropped), pending=pending)
