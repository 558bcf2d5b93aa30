"""The records of a recorder: manifests and log lines, written on a thread of their own; clips announced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread

from .clip import Clip, ClipState, Segment
from .doorbell import Pulse, Turns
from .errors import OutputError
from .interfaces import ClipHook, SegmentHook
from .ledger import ClipAccount, Ledger, RingAccount
from .session import SessionLog
from .snapshot_keeper import SnapshotKeeper
from .storage.manifest import delete_clip, prune_clips, write_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What a caller wants to hear of; called on the event loop's thread."""

    on_clip_closed: ClipHook | None = None
    on_segment_closed: SegmentHook | None = None


class Records:
    """Brings the latest state of each clip to disk, and announces a clip once its last manifest is there.

    Belongs to the event loop's thread. `settled` is called with each account that is closed for good.
    """

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        log: SessionLog,
        *,
        hooks: Hooks,
        keep_last_n_clips: int | None,
        prefixes: Mapping[str, str],
        settled: Callable[[ClipAccount], None],
        progress: Pulse,
        turns: Turns,
        keeper: SnapshotKeeper,
    ) -> None:
        self._folder = folder
        self._ledger = ledger
        self._log = log
        self._hooks = hooks
        self._keep_last_n_clips = keep_last_n_clips
        self._prefixes = prefixes
        self._settled = settled
        self._progress = progress
        self._turns = turns
        self._keeper = keeper
        self._noted: dict[int, ClipAccount] = {}
        self._held: set[int] = set()
        self._wake = log.appended

    def note(self, account: ClipAccount) -> None:
        """Have a clip's manifest written, with what is known by then."""
        self._noted[account.request.clip_index] = account
        self._wake.beat()

    def holds(self, account: ClipAccount) -> bool:
        """Whether a clip is whole on disk, and waits for nothing but the decision whether it stays."""
        return account.is_undecided and account.request.clip_index in self._held

    @property
    def are_written(self) -> bool:
        """Whether all that was noted and logged is on disk."""
        return not (self._noted or self._log.has_lines or self._keeper.has_waiting)

    async def keep(self) -> None:
        """Write what was noted, for as long as the recorder runs."""
        while True:
            while not self.are_written:
                await self._turns.rest_between()
                await self._keeper.write()
                await self._write()
            self._progress.beat()
            await self._wake.wait()

    def segment_closed(self, account: ClipAccount, segment: Segment) -> None:
        """Log and announce a segment that is whole on disk."""
        self._log.info("segment.closed", clip=account.name, file=segment.file, frames=segment.frames)
        self.note(account)
        self._call("on_segment_closed", self._hooks.on_segment_closed, account.to_clip(), segment)

    async def _write(self) -> None:
        """Bring the log to disk, and the clips that have waited longest: half of them, so that a turn is short."""
        due = self._take_due()
        finals = {index for index, account in due.items() if account.state is not ClipState.RECORDING}
        for index in finals - self._held:
            due[index].snapshots_closed(await self._keeper.close(due[index]))
        clips = [
            account.to_clip()
            for index, account in due.items()
            # Of one that is held, the last manifest is there already.
            if account.is_named and not account.is_unwanted and index not in self._held
        ]
        unwritten, log_error = await anyio.to_thread.run_sync(self._bring_to_disk, clips)
        for clip, exc in unwritten:
            self._log.trouble("manifest.failed", kind=type(exc).__name__, clip=clip.name, error=str(exc))
        if log_error:
            self._log.trouble("log.not_written", kind=type(log_error).__name__, error=str(log_error))
        for index in sorted(finals):
            await self._settle(due[index])

    def _take_due(self) -> dict[int, ClipAccount]:
        due: dict[int, ClipAccount] = {}
        oldest = sorted(self._noted)  # The oldest first: clips are as old as their manifests.
        for index in oldest[: (len(oldest) + 1) // 2]:
            account = self._noted.pop(index)
            if not isinstance(account, RingAccount) or self._is_due(account):
                due[index] = account
        return due

    def _is_due(self, ring: RingAccount) -> bool:
        """Whether a ring has become a clip; one that ended and was not asked for is forgotten."""
        if ring.is_saved:
            return True
        if ring.state is ClipState.RECORDING:
            return False
        if not ring.seconds:
            self._ledger.forget(ring)
            self._settled(ring)
            return False
        ring.failed()
        ring.close()
        return True

    def _bring_to_disk(self, clips: Sequence[Clip]) -> tuple[list[tuple[Clip, OutputError]], OSError | None]:
        """Write manifests and what was logged, in one go on a thread; return what could not be written, and why."""
        unwritten: list[tuple[Clip, OutputError]] = []
        for clip in clips:
            try:
                write_manifest(self._folder, clip)
            except OutputError as exc:
                unwritten.append((clip, exc))
        try:
            self._log.write_lines()
        except OSError as exc:
            return unwritten, exc
        return unwritten, None

    async def _settle(self, account: ClipAccount) -> None:
        """Announce a clip whose last manifest is on disk, or delete it, once that is decided."""
        index = account.request.clip_index
        if not self._ledger.account(index):
            return
        if account.is_undecided:
            self._held.add(index)
            return
        self._held.discard(index)
        await (self._throw_away(account) if account.is_unwanted else self._finish(account))

    async def _finish(self, account: ClipAccount) -> None:
        """Announce a clip whose last manifest is on disk."""
        clip = self._ledger.close(account)
        self._settled(account)
        self._log_closed(clip)
        if self._keep_last_n_clips:
            await self._prune(self._prefixes[clip.stream], self._keep_last_n_clips)
        self._call("on_clip_closed", self._hooks.on_clip_closed, clip)

    async def _throw_away(self, account: ClipAccount) -> None:
        """Delete the files of a clip that nobody is to hear of."""
        try:
            if account.is_named:
                await anyio.to_thread.run_sync(delete_clip, self._folder, account.name)
        except OutputError as exc:
            self._log.trouble("prune.failed", kind=type(exc).__name__, error=str(exc))
        clip = self._ledger.discard(account)
        self._settled(account)
        self._log.info("clip.discarded", clip=clip.name, requested=clip.frames.requested)

    def _log_closed(self, clip: Clip) -> None:
        self._log.info(
            "clip.closed",
            clip=clip.name,
            state=clip.state,
            requested=clip.frames.requested,
            encoded=clip.frames.encoded,
            dropped={str(cause): count for cause, count in clip.frames.dropped.items()},
            files=[segment.file for segment in clip.segments],
        )

    def _call(self, name: str, hook: Callable[..., None] | None, *facts: Any) -> None:
        if hook:
            try:
                hook(*facts)
            except Exception as exc:  # noqa: BLE001 - a caller's hook must not end the recording.
                self._log.warning("hook.failed", hook=name, error=repr(exc))

    async def _prune(self, prefix: str, keep: int) -> None:
        try:
            files = await anyio.to_thread.run_sync(prune_clips, self._folder, prefix, keep)
        except OutputError as exc:
            self._log.trouble("prune.failed", kind=type(exc).__name__, error=str(exc))
            return
        if files:
            self._log.info("clips.pruned", files=files)
