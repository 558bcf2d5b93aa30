"""Snapshots that nobody drew, on their way to a file from which they can be drawn later."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from .clip import DropCause, SnapshotFile
from .config import RecorderConfig
from .doorbell import Pulse
from .errors import OutputError
from .interfaces import ArchivableRenderer
from .ledger import ClipAccount
from .seats import ClipInWork
from .session import SessionLog
from .storage.files import free_nbytes
from .storage.snapshot_file import archive_members
from .storage.snapshot_format import ENCODING_SETTINGS, SnapshotsAbout
from .storage.snapshot_writer import SnapshotWriter

KEPT_CAUSES = (DropCause.NOT_RENDERED, DropCause.RENDER_FAILED, DropCause.WORKER_LOST, DropCause.CLOSED)
"""What keeps a frame from being drawn that can be drawn elsewhere, or another day."""


class SnapshotKeeper:
    """Takes copies of snapshots, and writes those of each clip into one file, on a thread.

    Belongs to the event loop's thread. It holds at most as many bytes as the frame queue does.
    """

    def __init__(self, config: RecorderConfig, folder: Path, log: SessionLog, *, wake: Pulse) -> None:
        self._config = config
        self._folder = folder
        self._log = log
        self._wake = wake
        self._waiting: dict[int, tuple[ClipInWork, list[tuple[int, bytes]]]] = {}
        self._nbytes = 0
        self._writers: dict[int, SnapshotWriter] = {}
        self._failed: set[int] = set()

    @property
    def has_waiting(self) -> bool:
        """Whether `write` has anything to write."""
        return bool(self._waiting)

    def offer(self, clip: ClipInWork, step: int, snapshot: NDArray[np.uint8]) -> None:
        """Take a copy of a snapshot, where its renderer can be kept, too; the caller drops the frame either way."""
        is_archivable = isinstance(clip.source.format.renderer, ArchivableRenderer)
        if not is_archivable or not clip.account.is_named or clip.index in self._failed:
            return
        if self._nbytes + snapshot.nbytes > self._config.queue_bytes:
            self._log.trouble("snapshots.not_kept", kind="slow_disk", clip=clip.account.name, error="the disk is slow")
            return
        self._waiting.setdefault(clip.index, (clip, []))[1].append((step, snapshot.tobytes()))
        self._nbytes += snapshot.nbytes
        clip.account.kept += 1
        self._wake.beat()

    async def write(self) -> None:
        """Write what waits."""
        while self._waiting:
            index, (clip, snapshots) = self._waiting.popitem()
            self._nbytes -= sum(len(data) for _, data in snapshots)
            try:
                await anyio.to_thread.run_sync(self._write, clip, snapshots)
            except OutputError as exc:
                self._failed.add(index)
                self._log.trouble("snapshots.not_kept", kind=type(exc).__name__, clip=clip.account.name, error=str(exc))

    async def close(self, account: ClipAccount) -> SnapshotFile | None:
        """Finish the file of a clip, where there is one, after a last `write`; return what it holds."""
        self._failed.discard(account.request.clip_index)
        writer = self._writers.pop(account.request.clip_index, None)
        if writer is None:
            return None
        try:
            return await anyio.to_thread.run_sync(writer.close, None)
        except OutputError as exc:
            writer.abandon()
            self._log.trouble("snapshots.not_kept", kind=type(exc).__name__, clip=account.name, error=str(exc))
            return None

    def _write(self, clip: ClipInWork, snapshots: list[tuple[int, bytes]]) -> None:
        self._check_room()
        writer = self._writers.get(clip.index)
        if writer is None:
            writer = self._writers[clip.index] = self._open(clip)
        for step, data in snapshots:
            writer.append(step, data)
        writer.flush()

    def _check_room(self) -> None:
        try:
            free = free_nbytes(self._folder)
        except OSError as exc:
            raise OutputError(f"{self._folder} can't be written: {exc.strerror or exc}") from exc
        if free is not None and free < self._config.min_free_bytes:
            raise OutputError(f"{self._folder} has less room left than min_free_bytes={self._config.min_free_bytes}")

    def _open(self, clip: ClipInWork) -> SnapshotWriter:
        renderer = clip.source.format.renderer
        assert isinstance(renderer, ArchivableRenderer)
        archive = renderer.to_archive()
        settings = self._config.to_json()
        about = SnapshotsAbout(
            clip=clip.account.name,
            start_step=clip.account.request.start_step,
            frame_stride=clip.account.request.frame_stride,
            fps=clip.account.fps,
            encoding={name: settings[name] for name in ENCODING_SETTINGS},
            kind=archive.kind,
            settings=archive.settings,
        )
        return SnapshotWriter(self._folder, about, archive_members(archive))
