"""Snapshots of one clip -> a file that outlives the process; for the recording service, so without numpy."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from ..clip import SnapshotFile
from ..errors import OutputError
from .files import DRAFT_SUFFIX, NEW_FILE, PART_SUFFIX, open_ordinary, sync_folder
from .snapshot_format import (
    ABOUT,
    MOST_MEMBER_NBYTES,
    SNAPSHOTS_SUFFIX,
    Member,
    about_from_npy,
    about_to_npy,
    is_beginning,
    npy_header,
    step_of,
    whole_members,
)
from .snapshot_format import SnapshotsAbout as SnapshotsAbout

_FLUSH_NBYTES = 4 * 2**20
"""Appended bytes that are handed to the kernel without being asked to."""


class SnapshotWriter:
    """Writes the snapshots of one clip, in any order. For one thread at a time; blocks.

    The file is called `<clip>.snapshots.npz.part` until it is closed. Snapshots survive the process once `flush`
    returned, and the machine once `close` did. After an `OutputError` the file holds what was flushed before, and
    more may be appended.

    Args:
        folder: The output folder.
        about: What the file says of itself.
        model: What the renderer is made of: names of members such as `model/mesh`, and their content in NPY format,
            as `archive_members` makes them.

    Raises:
        OutputError: the file can't be made; or there is one already that holds snapshots, or is a link.
    """

    def __init__(self, folder: Path, about: SnapshotsAbout, model: Sequence[tuple[str, bytes]]) -> None:
        part = folder / f"{about.clip}{SNAPSHOTS_SUFFIX}{PART_SUFFIX}"
        try:
            fd = _create(part)
        except OSError as exc:
            raise _write_error(part, exc) from exc
        self._take(part, fd, {}, 0)
        try:
            for name, content in model:
                self._add(f"{name}.npy", b"", content)
            self._add(ABOUT, b"", about_to_npy(about))  # Last: where it is whole, the model is, too.
            self.flush()
        except OutputError:
            self.discard()
            raise

    def _take(self, part: Path, fd: int, members: dict[str, Member], end: int) -> None:
        self._part = part
        self._final = part.with_name(part.name.removesuffix(PART_SUFFIX))
        self._fd = fd
        self._end = end
        """Bytes of the file that hold whole members."""
        self._members = members
        self._steps = {step: name for name in members if (step := step_of(name)) is not None}
        self._waiting = bytearray()
        self._waiting_names: list[str] = []

    @classmethod
    def resume(cls, folder: Path, about: SnapshotsAbout) -> SnapshotWriter | None:
        """Go on with the file of a process that was killed, also where that had closed it just before.

        Returns:
            None where there is no such file, or it can't be read, or is of another clip; it is left as it is.

        Raises:
            OutputError: it can be read, and not be written.
        """
        final = folder / f"{about.clip}{SNAPSHOTS_SUFFIX}"
        part = final.with_name(final.name + PART_SUFFIX)
        for path in (part, final):
            with suppress(OSError, ValueError):
                with open_ordinary(path) as file:
                    members, end, found = _scan(file)
                if found and _is_same_clip(found, about):
                    if path == final:
                        _rename(final, part)
                    return cls.reopen(part, members, end)
        return None

    @classmethod
    def reopen(cls, part: Path, members: dict[str, Member], end: int) -> SnapshotWriter:
        """Go on with a file that was read to its last whole member, which ends at `end` [bytes].

        Raises:
            OutputError: it can't be written.
        """
        try:
            fd = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.ftruncate(fd, end)
            except OSError:
                os.close(fd)
                raise
        except OSError as exc:
            raise _write_error(part, exc) from exc
        writer = cls.__new__(cls)
        writer._take(part, fd, members, end)
        return writer

    @property
    def steps(self) -> Collection[int]:
        """The steps whose snapshots were appended."""
        return self._steps.keys()

    def append(self, step: int, data: bytes | memoryview) -> None:
        """Add the snapshot of a step; `data` is copied. A step that is there already is passed over.

        Raises:
            OutputError: what was appended since the last `flush` can't be written.
        """
        if step not in self._steps:
            name = f"steps/{step}.npy"
            self._add(name, npy_header("|u1", f"({len(data)},)"), data)
            self._steps[step] = name
            if len(self._waiting) >= _FLUSH_NBYTES:
                self.flush()

    def flush(self) -> None:
        """Hand what was appended to the kernel.

        Raises:
            OutputError: it can't be written; it is not in the file, and no more among `steps`.
        """
        waiting, self._waiting = memoryview(self._waiting), bytearray()
        names, self._waiting_names = self._waiting_names, []
        try:
            _write_at(self._fd, waiting, self._end)
        except OSError as exc:
            for name in names:
                del self._members[name]
                if (step := step_of(name)) is not None:
                    del self._steps[step]
            with suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise _write_error(self._part, exc) from exc
        self._end += len(waiting)

    def close(self, keep: Collection[int] | None) -> SnapshotFile | None:
        """Finish the file, bring it to the disk, and return what it holds; the writer is of no more use then.

        Args:
            keep: The steps whose snapshots stay; None: all of them.

        Returns:
            None where none stays: the file is gone.

        Raises:
            OutputError: it stays a part, which `resume` and `stepreel recover` take up.
        """
        self.flush()
        kept = self._steps.keys() if keep is None else self._steps.keys() & frozenset(keep)
        if not kept:
            self.discard()
            return None
        try:
            if os.path.lexists(self._final):
                raise FileExistsError(errno.EEXIST, "it is there already; move it away")
            if len(kept) < len(self._steps):
                self._compact({name for step, name in self._steps.items() if step not in kept})
            nbytes = self._write_directory()
            os.fsync(self._fd)
            os.rename(self._part, self._final)
            sync_folder(self._final.parent)
        except OSError as exc:
            raise _write_error(self._final, exc) from exc
        finally:
            self.abandon()
        return SnapshotFile(file=self._final.name, frames=len(kept), nbytes=nbytes)

    def discard(self) -> None:
        """Remove the file.

        Raises:
            OutputError: it can't be removed.
        """
        if self._fd < 0:
            return
        self.abandon()
        _remove(self._part)

    def abandon(self) -> None:
        """Let go of the file, and leave it as it is. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def _add(self, name: str, head: bytes, content: bytes | memoryview) -> None:
        nbytes = len(head) + len(content)
        if nbytes > MOST_MEMBER_NBYTES:
            raise OutputError(
                f"{self._part} can't be written: {name} has {nbytes} bytes; allowed: {MOST_MEMBER_NBYTES}"
            )
        crc = zlib.crc32(content, zlib.crc32(head))
        member = Member(self._end + len(self._waiting), crc, nbytes)
        self._members[name] = member
        self._waiting_names.append(name)
        self._waiting += member.header(name)
        self._waiting += head
        self._waiting += content

    def _compact(self, gone: Collection[str]) -> None:
        """Write the members that stay into another file, and put that in place of the part."""
        draft = self._part.with_name(self._part.name + DRAFT_SUFFIX)
        draft.unlink(missing_ok=True)
        fd = os.open(draft, _FLAGS, 0o666)
        try:
            members, end = {}, 0
            for name, member in self._members.items():
                if name not in gone:
                    data = _read_at(self._fd, len(member.header(name)) + member.nbytes, member.offset)
                    _write_at(fd, memoryview(data), end)
                    members[name] = member._replace(offset=end)
                    end += len(data)
            os.fsync(fd)
            os.replace(draft, self._part)
        except BaseException:
            os.close(fd)
            draft.unlink(missing_ok=True)
            raise
        self.abandon()
        self._fd, self._members, self._end = fd, members, end

    def _write_directory(self) -> int:
        """Write the directory behind the members, and return the size of the file [bytes]."""
        with open(self._fd, "r+b", closefd=False) as file:
            file.seek(self._end)
            archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
            archive.filelist += [member.info(name) for name, member in self._members.items()]
            archive.close()
            return file.tell()


def repair_snapshots(folder: Path, part_name: str) -> SnapshotFile | None:
    """Close a snapshot file whose process was killed, with every snapshot that is whole in it.

    Returns:
        What it holds now; None where there was no snapshot in it: it is removed.

    Raises:
        OutputError: it can't be read, is not of the clip of its name, or can't be written; it is left as it is.
    """
    part = folder / part_name
    try:
        with open_ordinary(part) as file:
            members, end, about = _scan(file)
            is_ours = bool(end) or is_beginning(file)
    except (OSError, ValueError) as exc:
        raise OutputError(f"{part} can't be read: {getattr(exc, 'strerror', None) or exc}") from exc
    has_steps = any(step_of(name) is not None for name in members)
    if not is_ours or (has_steps and about is None):
        raise OutputError(f"{part} is no file of snapshots, or damaged; it is left as it is")
    if about is None or not has_steps:
        _remove(part)
        return None
    if part_name != f"{about.clip}{SNAPSHOTS_SUFFIX}{PART_SUFFIX}":
        raise OutputError(f"{part} holds the snapshots of {about.clip!r}; it is left as it is")
    return SnapshotWriter.reopen(part, members, end).close(None)


def _create(part: Path) -> int:
    """Make the file of a clip, in place of one that holds no snapshot. Raises `OSError`."""
    try:
        return os.open(part, _FLAGS, 0o666)
    except FileExistsError:
        with open_ordinary(part) as file:
            if any(step_of(name) is not None for name, _, _ in whole_members(file)):
                raise OSError(errno.EEXIST, "it holds snapshots already; move it away") from None
        os.unlink(part)
        return os.open(part, _FLAGS, 0o666)


_FLAGS = NEW_FILE & ~os.O_WRONLY | os.O_RDWR


def _scan(file: BufferedReader) -> tuple[dict[str, Member], int, SnapshotsAbout | None]:
    """Return the members of a file that are whole, where the last of them ends [bytes], and what the file says of
    itself. Raises `OSError` or `ValueError`.
    """
    members: dict[str, Member] = {}
    about, end = None, 0
    for name, member, content in whole_members(file):
        members.setdefault(name, member)
        end = member.offset + len(member.header(name)) + member.nbytes
        if name == ABOUT:
            about = about_from_npy(content)
    return members, end, about


def _is_same_clip(one: SnapshotsAbout, other: SnapshotsAbout) -> bool:
    grids = [(about.clip, about.start_step, about.frame_stride, about.kind) for about in (one, other)]
    return grids[0] == grids[1]


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def _read_at(fd: int, nbytes: int, offset: int) -> bytes:
    parts = []
    while nbytes:
        part = os.pread(fd, nbytes, offset)
        if not part:
            raise OSError(errno.EIO, "it was cut meanwhile")
        parts.append(part)
        nbytes, offset = nbytes - len(part), offset + len(part)
    return b"".join(parts)


def _rename(path: Path, other: Path) -> None:
    try:
        os.rename(path, other)
    except OSError as exc:
        raise _write_error(other, exc) from exc


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"{part} can't be removed: {exc.strerror or exc}") from exc


def _write_error(path: Path, exc: OSError) -> OutputError:
    return OutputError(f"{path} can't be written: {exc.strerror or exc}")
