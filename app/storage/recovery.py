"""What a killed training run left in its output folder -> whole segments, and manifests that say what there is."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import av
import msgspec
from msgspec import Struct

from ..clip import Clip, ClipState, Segment, SnapshotFile
from ..errors import EncodeError, OutputError
from .files import DRAFT_SUFFIX, PART_SUFFIX, open_ordinary
from .folder_lock import LOCK_FILE, FolderLock
from .manifest import read_manifest, write_manifest
from .remux import remux
from .repair import ClipReview, Plan, UnrepairableError, clip_of_snapshots, with_snapshots
from .segment_label import labelled_clip
from .segment_reader import open_segment
from .session_files import is_record, is_session_file, session_stems
from .snapshot_file import SnapshotReader, measure_snapshots
from .snapshot_format import SNAPSHOTS_SUFFIX
from .snapshot_writer import repair_snapshots

_ORPHAN_S = 3.0
"""A worker whose training was killed closes its segments first; by then it is gone."""
_QUIET_S = 600.0
"""Where a file system has no locks, a folder in which nothing changed for so long is recorded into by nobody."""
_MAX_SESSION_BYTES = 2**20
_TEMPORARY = re.compile(
    rf"session(-rank\d+)?(-pace)?\.json\{PART_SUFFIX}|\.stepreel-\w+(\{PART_SUFFIX})?"
    rf"|.+\.(mp4|npz)\{PART_SUFFIX}\{DRAFT_SUFFIX}",
    re.ASCII | re.DOTALL,
)
"""What a killed recorder leaves of the files that say how far it is, and drafts of files written anew."""
_CLIP = re.compile(r".+-(step|episode)-\d+(-\d+)?", re.ASCII | re.DOTALL)
_SEGMENT = re.compile(r"(?P<stem>.+?)(?P<number>\.\d{3,9})?\.mp4(\.part)?", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairedClip:
    """A clip that was not as it should be."""

    clip: Clip
    """As its manifest says now. An `end_step` of None: the process died before the clip's end, and how many frames
    still waited then is not known."""
    actions: tuple[str, ...]
    """One line for each thing that was done."""

    @property
    def is_whole(self) -> bool:
        """Whether every frame that was asked for is in a file, as far as can be known."""
        return self.clip.end_step is not None and not self.clip.frames.dropped_total


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What was found and done in one folder."""

    folder: Path
    is_recording: bool = False
    """The folder is being recorded into, or repaired by somebody else: it was left alone."""
    sound_count: int = 0
    """Clips that had nothing to repair."""
    repaired: tuple[RepairedClip, ...] = ()
    removed: tuple[str, ...] = ()
    """Files that held nothing and belong to no clip: names that were only reserved, and drafts."""
    problems: tuple[str, ...] = ()
    """One line for each thing that can't be repaired: what, and why. It is left as it is."""
    undrawn: tuple[str, ...] = ()
    """One line for each clip that lacks frames whose snapshots can't be drawn here; see `finish_clips`."""


def recover(folder: Path, *, dry_run: bool = False) -> Recovery:
    """Repair what a killed training run left in its output folder. Blocks for about as long as reading its clips takes.

    Segments left open are closed with every frame up to their last complete fragment, and frames that are in no file
    are counted as dropped. A folder that is still recorded into is left alone. Nothing that holds a picture is
    deleted, and no link is followed. Doing it again changes nothing.

    Args:
        folder: The output folder of one or more runs; folders inside of it are not looked at.
        dry_run: Tell what would be done, and change nothing.
    """
    try:
        with _claimed(folder, dry_run) as is_claimed:
            if not is_claimed:
                return Recovery(folder=folder, is_recording=True)
            return _FolderRepair(folder, sorted(os.listdir(folder)), dry_run).run()
    except OSError as exc:
        return Recovery(folder=folder, problems=(f"{folder} can't be read: {exc.strerror or exc}",))
    except OutputError as exc:
        return Recovery(folder=folder, problems=(str(exc),))


@contextmanager
def _claimed(folder: Path, dry_run: bool) -> Iterator[bool]:
    """Keep everybody else from recording into a folder; yields whether that worked."""
    if dry_run and not os.path.lexists(folder / LOCK_FILE):
        yield True
        return
    lock = FolderLock.claim(folder, timeout_s=_ORPHAN_S)
    if lock is None:
        yield False
        return
    try:
        yield lock.is_held or not _has_changed_lately(folder)
    finally:
        if dry_run:
            lock.forget()
        else:
            lock.release()


def _has_changed_lately(folder: Path) -> bool:
    now = time.time()
    with os.scandir(folder) as entries:
        return any(abs(now - entry.stat(follow_symlinks=False).st_mtime) < _QUIET_S for entry in entries)


class _FolderRepair:
    """Repairs the clips of one folder, one after the other; what can't be repaired keeps nothing else from it."""

    def __init__(self, folder: Path, entries: list[str], dry_run: bool) -> None:
        self._folder = folder
        self._entries = entries
        self._dry_run = dry_run
        self._sound_count = 0
        self._repaired: list[RepairedClip] = []
        self._removed: list[str] = []
        self._problems: list[str] = []

    def run(self) -> Recovery:
        """Repair all there is."""
        for name, files in self._clips().items():
            try:
                self._repair(name, files)
                self._repair_snapshots(name)
            except (UnrepairableError, OutputError, EncodeError) as exc:
                self._problems.append(str(exc))
        for entry in self._entries:
            if _TEMPORARY.fullmatch(entry):
                self._remove_leftover(entry)
        return Recovery(
            folder=self._folder,
            sound_count=self._sound_count,
            repaired=tuple(self._repaired),
            removed=tuple(self._removed),
            problems=tuple(self._problems),
        )

    def _clips(self) -> dict[str, list[str]]:
        """Return the names of what may be clips, each with the names of its segments."""
        clips: dict[str, list[str]] = {
            entry.removesuffix(".json"): []
            for entry in self._entries
            if entry.endswith(".json") and entry != ".json" and not is_record(entry.removesuffix(".json"))
        }
        for entry in self._entries:
            match = _SEGMENT.fullmatch(entry)
            if match:
                names = [match["stem"]] + ([match["stem"] + match["number"]] if match["number"] else [])
                owners = [name for name in names if name in clips]
                is_told = len(owners) == 1 and (len(names) == 1 or not self._is_labelled(entry, names, but=owners[0]))
                owner = owners[0] if is_told else self._labelled_owner(entry, names)
                if owner:
                    clips.setdefault(owner, []).append(entry)
        return clips

    def _is_clip_name(self, name: str) -> bool:
        """Return whether a recorder of this folder calls its clips so: an empty file may be anybody's."""
        if _CLIP.fullmatch(name):
            return any(is_session_file(entry) for entry in self._entries)
        prefixes = (_name_prefix(self._folder / f"{stem}.json") for stem in session_stems(self._entries))
        return any(prefix is not None and name.startswith(f"{prefix}-") for prefix in prefixes)

    def _is_labelled(self, entry: str, names: list[str], *, but: str) -> bool:
        """Return whether a segment says that it is of another clip whose segments are called so."""
        try:
            return labelled_clip(self._folder / entry) in {*names} - {but}
        except OSError:
            return False

    def _labelled_owner(self, entry: str, names: list[str]) -> str | None:
        try:
            with open_segment(self._folder / entry) as reader:
                return reader.label.clip if reader and reader.label.clip in names else None
        except (av.FFmpegError, OSError, ValueError):
            return None  # Not one of ours.

    def _repair(self, name: str, files: list[str]) -> None:
        manifest, is_stale = self._manifest(name, files)
        if manifest is None and not files:
            if is_stale and self._is_clip_name(name) and not self._snapshots_of(name):
                self._remove_leftover(f"{name}.json")  # The name was reserved, and nothing came after.
            return
        draft = f"{name}.json{PART_SUFFIX}"
        is_half_written = draft in self._entries and not (is_stale and manifest)
        if manifest and not is_stale and _is_settled(manifest, files):
            self._sound_count += 1
        else:
            self._repair_clip(name, files, manifest, is_stale=is_stale)
        if is_half_written:
            self._remove_leftover(draft)

    def _manifest(self, name: str, files: list[str]) -> tuple[Clip | None, bool]:
        """Return the latest manifest of a clip, and whether it is not yet, or no more, under its name."""
        entry, draft = f"{name}.json", f"{name}.json{PART_SUFFIX}"
        if entry not in self._entries:
            return None, True
        newer = self._draft(draft) if draft in self._entries else None
        if _is_blank(self._folder / entry):
            return newer, True
        try:
            manifest = read_manifest(self._folder / entry)
        except OutputError:
            if files:
                raise
            return None, False  # Somebody else's.
        # A draft that is whole was only kept from its name; a closed manifest is the last.
        return (newer, True) if newer and manifest.state is ClipState.RECORDING else (manifest, False)

    def _draft(self, entry: str) -> Clip | None:
        try:
            return read_manifest(self._folder / entry)
        except OutputError:
            return None  # Half-written.

    def _repair_clip(self, name: str, files: list[str], manifest: Clip | None, *, is_stale: bool) -> None:
        review = ClipReview(self._folder, name, manifest)
        try:
            plan = review.plan(files)
        finally:
            self._problems += review.problems
        if plan.clip == manifest and not is_stale and not plan.actions:
            self._sound_count += 1
            return
        clip = plan.clip if self._dry_run else _perform(self._folder, plan)
        if clip:
            self._repaired.append(RepairedClip(clip=clip, actions=plan.actions))
        elif plan.to_remove:
            self._removed += plan.to_remove
            if f"{name}.json" in self._entries:
                self._remove_leftover(f"{name}.json")

    def _snapshots_of(self, name: str) -> str | None:
        """Return the name of a clip's file of snapshots, closed or open."""
        closed = f"{name}{SNAPSHOTS_SUFFIX}"
        return next((entry for entry in (closed + PART_SUFFIX, closed) if entry in self._entries), None)

    def _repair_snapshots(self, name: str) -> None:
        """Close the file of snapshots that a killed process left open, and have the manifest list it."""
        file = self._snapshots_of(name)
        if file is None:
            return
        path = self._folder / f"{name}.json"
        before = None if _is_blank(path) else read_manifest(path)
        if not file.endswith(PART_SUFFIX):
            if before is None or before.snapshots is None:  # Interrupted after it was closed.
                self._list_snapshots(before, measure_snapshots(self._folder / file), f"{file} listed")
        elif self._dry_run:
            if before:
                self._note_repaired(before, f"{file} is to be closed")
        elif snapshots := repair_snapshots(self._folder, file):
            told = f"{file} closed as {snapshots.file}: {snapshots.frames} snapshots, for stepreel render"
            self._list_snapshots(before, snapshots, told)
        else:
            self._removed.append(file)
            if before is None:
                self._remove_leftover(path.name)

    def _list_snapshots(self, before: Clip | None, snapshots: SnapshotFile, action: str) -> None:
        with SnapshotReader(self._folder / snapshots.file) as reader:
            told, steps = clip_of_snapshots(reader.about), reader.steps
        if f"{told.name}{SNAPSHOTS_SUFFIX}" != snapshots.file:
            raise OutputError(
                f"{self._folder / snapshots.file} holds the snapshots of {told.name!r}; it is left as it is"
            )
        clip = with_snapshots(before or told, snapshots, steps)
        if not self._dry_run:
            write_manifest(self._folder, clip)
        self._note_repaired(clip, action)

    def _note_repaired(self, clip: Clip, action: str) -> None:
        earlier = [one for one in self._repaired if one.clip.name == clip.name]
        self._repaired = [one for one in self._repaired if one not in earlier]
        actions = tuple(line for one in earlier for line in one.actions)
        self._repaired.append(RepairedClip(clip=clip, actions=(*actions, action)))

    def _remove_leftover(self, entry: str) -> None:
        path = self._folder / entry
        if path.is_symlink():
            return  # Somebody put it there.
        try:
            if not self._dry_run:
                _remove(path)
        except OutputError as exc:
            self._problems.append(str(exc))
        else:
            self._removed.append(entry)


def _is_settled(manifest: Clip, files: Iterable[str]) -> bool:
    listed = {segment.file for segment in manifest.segments}
    return manifest.state is not ClipState.RECORDING and not manifest.open_segment and listed == set(files)


def _is_blank(path: Path) -> bool:
    """Return whether a file holds nothing: a name that was reserved, or what a power cut leaves of a file."""
    try:
        with open_ordinary(path) as file:
            return not file.read(_MAX_SESSION_BYTES).strip(b"\0")
    except OSError:
        return False


class _Configuration(Struct):
    name_prefix: str


class _Session(Struct):
    configuration: _Configuration


def _name_prefix(session: Path) -> str | None:
    """Return what the clips of a session are called after, or None where its file does not say."""
    try:
        with open_ordinary(session) as file:
            return msgspec.json.decode(file.read(_MAX_SESSION_BYTES), type=_Session).configuration.name_prefix
    except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _perform(folder: Path, plan: Plan) -> Clip | None:
    """Carry out a plan. Raises `EncodeError` or `OutputError`; what was done by then is found done the next time."""
    closed: dict[str, Segment] = {}
    for part, final in plan.to_close.items():
        segment = remux(folder, part, final)
        if segment is None:
            raise EncodeError(f"{folder / part} can't be repaired: it has changed meanwhile")
        closed[final] = segment
    for part in plan.to_remove:
        _remove(folder / part)
    if plan.clip is None:
        return None
    clip = replace(plan.clip, segments=tuple(closed.get(one.file, one) for one in plan.clip.segments))
    write_manifest(folder, clip)
    return clip


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"{path} can't be removed: {exc.strerror or exc}") from exc
