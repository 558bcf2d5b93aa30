"""Reads a folder of clips into a `FolderIndex`. Its files may have been written by anybody."""

from __future__ import annotations

import json
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from ..clip import Clip, ClipState
from ..errors import OutputError
from ..storage.files import open_ordinary
from ..storage.folder_lock import is_recorded_into
from ..storage.manifest import is_file_of, read_manifest
from ..storage.session_files import is_record, session_stem, session_stems
from ..storage.step_counts import StepCounts, read_step_counts, step_counts_file

MOST_CLIPS = 5000
"""Clips of one page; of more, the latest."""
_MOST_MANIFEST_NBYTES = 8 * 2**20
_MOST_MANIFESTS_NBYTES = 128 * 2**20
_MOST_RECORD_NBYTES = 2**20
"""Of `session.json` as a whole, and of the end of `session.jsonl`."""
_MOST_WARNINGS = 200
_MOST_RANKS = 64
"""Whose logs are read."""
_MOST_DEPTH = 32
_MOST_LINES = 100
"""Of files that can't be read."""


_MOST_LEVELS = 4
_MOST_FOLDERS = 2000
"""Looked at for clips inside of a folder that has none."""
_USUAL_NAMES = frozenset({"clips", "train", "video", "videos"})
"""Folders that are called so in every run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundClip:
    """A clip, and those of its files that are in the folder."""

    clip: Clip
    files: tuple[str, ...]
    """Closed segments of the manifest that are there."""
    part: str | None
    """The open segment, if it is there."""
    nbytes: int
    """Of all of them."""
    changed_s: float
    """When the manifest last changed [s since 1970]."""

    @property
    def version(self) -> str:
        """Changes whenever the clip should be shown anew."""
        return f"{self.changed_s:.6f}-{self.nbytes}-{len(self.files)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderIndex:
    """The clips, warnings and state of a folder at one moment."""

    folder: Path
    clips: tuple[FoundClip, ...]
    """Those of the latest run come first, and of each run those that began last."""
    left_out: int
    """Clips beyond `MOST_CLIPS`."""
    unreadable: tuple[str, ...]
    """One line for each file that can't be shown."""
    unlisted: int
    """Videos that belong to no manifest in the folder."""
    session: Mapping[str, Any] = field(default_factory=dict)
    """`session.json` of the latest run, as it is; of several ranks, that of the first."""
    warnings: tuple[Mapping[str, Any], ...] = ()
    """The last warnings of the log, or of all ranks' logs, the latest first."""
    step_counts: StepCounts | None = None
    is_recording: bool = False
    """Whether a recorder has the folder open now."""

    @property
    def title(self) -> str:
        """The folder's name; where many are called so, with those above it."""
        parts = [part for part in self.folder.parts if part != self.folder.anchor]
        first = next((place for place in range(len(parts) - 1, -1, -1) if parts[place] not in _USUAL_NAMES), 0)
        return "/".join(parts[first:]) or "clips"


def refuse_wrong_folder(folder: Path) -> None:
    """Check that a folder is not merely one with folders of clips inside of it, such as a run's `log_dir`.

    Raises:
        OutputError: it is; or it can't be read.
    """
    try:
        if any(_is_of_session(entry) or _is_video(entry) for entry in os.listdir(folder)):
            return
    except OSError as exc:
        raise OutputError(f"{folder} can't be read: {exc.strerror or exc}") from exc
    found = list(islice(_recorded_into(folder), 4))
    if found:
        more = ", ..." if len(found) > 3 else ""
        raise OutputError(f"{folder}: no clip there; there are some in {', '.join(map(str, found[:3]))}{more}")


def _recorded_into(folder: Path) -> Iterator[Path]:
    """Yield the folders inside of one where a recorder has been; not all where there are very many."""
    for place, (inner, names, files) in enumerate(os.walk(folder)):
        names.sort()
        level = len(Path(inner).relative_to(folder).parts)
        if level == _MOST_LEVELS or place > _MOST_FOLDERS:
            names.clear()
        if any(map(_is_of_session, files)):
            yield Path(inner)


def _is_of_session(entry: str) -> bool:
    return entry.startswith("session") and entry.endswith(".json")


class FolderReader:
    """Reads a folder again and again; a manifest is parsed only where it changed. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parsed: dict[str, tuple[tuple[int, ...], Clip | str]] = {}

    def read(self) -> FolderIndex:
        """Index the folder as it is now.

        Raises:
            OutputError: the folder can't be read.
        """
        entries = self._list()
        names = [entry.removesuffix(".json") for entry in entries if _is_manifest(entry, entries[entry])]
        names.sort(key=lambda name: (entries[f"{name}.json"].st_mtime_ns, name), reverse=True)
        kept = names[:MOST_CLIPS]
        clips, problems = self._read_clips(kept, entries)
        owned = {file for one in clips for file in (*one.files, one.part)}
        unlisted = [entry for entry in entries if _is_video(entry) and entry not in owned]
        stems = _latest_sessions(entries)
        session = self._collect(problems, lambda: self._read_session(stems[0])) or {}
        started_s = seconds_of(session.get("started_at")) or 0.0
        clips.sort(key=lambda one: (one.changed_s >= started_s - 1, one.clip.start_step, one.clip.name), reverse=True)
        return FolderIndex(
            folder=self._folder,
            clips=tuple(clips),
            left_out=len(names) - len(kept),
            unlisted=len(unlisted),
            session=session,
            warnings=self._collect(problems, lambda: self._read_warnings(stems)) or (),
            step_counts=self._collect(problems, lambda: read_step_counts(self._folder, step_counts_file(stems[0]))),
            is_recording=is_recorded_into(self._folder),
            unreadable=_shorten(problems),
        )

    def _list(self) -> dict[str, os.stat_result]:
        found: dict[str, os.stat_result] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    try:
                        found[entry.name] = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # Renamed meanwhile: the next reading sees it.
        except OSError as exc:
            raise OutputError(f"{self._folder} can't be read: {exc.strerror or exc}") from exc
        return found

    def _read_clips(self, names: list[str], entries: Mapping[str, os.stat_result]) -> tuple[list[FoundClip], list[str]]:
        clips: list[FoundClip] = []
        problems: list[str] = []
        parsed: dict[str, tuple[tuple[int, ...], Clip | str]] = {}
        room = _MOST_MANIFESTS_NBYTES
        for name in names:
            found = entries[f"{name}.json"]
            room -= found.st_size
            parsed[name] = self._parse(name, found, fits=room >= 0)
            clip = parsed[name][1]
            if isinstance(clip, str):
                problems.append(clip)
            else:
                clips.append(_with_files(clip, entries))
        self._parsed = parsed
        return clips, problems

    def _parse(self, name: str, found: os.stat_result, *, fits: bool) -> tuple[tuple[int, ...], Clip | str]:
        key = (found.st_ino, found.st_mtime_ns, found.st_size, fits)
        known = self._parsed.get(name)
        if known and known[0] == key:
            return known
        path = self._folder / f"{name}.json"
        if not fits or found.st_size > _MOST_MANIFEST_NBYTES:
            return key, f"{path.name}: left out, it is too large ({found.st_size} bytes)"
        try:
            return key, read_manifest(path)
        except OutputError as exc:
            return key, str(exc).replace(f"{self._folder}{os.sep}", "", 1)

    def _collect(self, problems: list[str], read: Any) -> Any:
        try:
            return read()
        except OutputError as exc:
            problems.append(str(exc).replace(f"{self._folder}{os.sep}", "", 1))
            return None

    def _read_session(self, stem: str) -> dict[str, Any]:
        path = self._folder / f"{stem}.json"
        found = _load(_read_end(path, whole=True) or b"{}", path)
        if not isinstance(found, dict):
            raise OutputError(f"{path} is no object")
        return found

    def _read_warnings(self, stems: list[str]) -> tuple[Mapping[str, Any], ...]:
        logs = [_warnings_of(self._folder / f"{stem}.jsonl") for stem in stems[:_MOST_RANKS]]
        if len(logs) == 1:
            return tuple(logs[0])
        merged = sorted((event for log in logs for event in log), key=_moment, reverse=True)
        return tuple(merged[:_MOST_WARNINGS])


def _latest_sessions(entries: Mapping[str, os.stat_result]) -> list[str]:
    """Return the stems of the latest run's files, one for each rank, the first rank first."""
    alone, stems = session_stem(None), session_stems(entries)
    ranks = [stem for stem in stems if stem != alone]
    latest = max(stems, key=lambda stem: entries[f"{stem}.json"].st_mtime_ns, default=alone)
    return [alone] if latest == alone else ranks


def _warnings_of(log: Path) -> list[Mapping[str, Any]]:
    """Return the last warnings of a log, the latest first."""
    latest: deque[Mapping[str, Any]] = deque(maxlen=_MOST_WARNINGS)
    for line in (_read_end(log, whole=False) or b"").splitlines():
        if b'"warning"' in line or b'"error"' in line:
            try:
                event = _load(line, log)
            except OutputError:
                continue  # The first line may be cut, and the last one not be whole yet.
            if isinstance(event, dict) and event.get("level") in ("warning", "error"):
                latest.append(event)
    return list(reversed(latest))


def _moment(event: Mapping[str, Any]) -> float:
    return seconds_of(event.get("timestamp")) or 0.0


def _is_manifest(entry: str, found: os.stat_result) -> bool:
    is_json = entry.endswith(".json") and not entry.startswith(".") and not is_record(entry.removesuffix(".json"))
    # An empty one is a name that was reserved a moment ago.
    return is_json and found.st_size > 0 and not stat.S_ISDIR(found.st_mode)


def _is_video(entry: str) -> bool:
    return entry.endswith((".mp4", ".mp4.part"))


def _with_files(clip: Clip, entries: Mapping[str, os.stat_result]) -> FoundClip:
    def is_there(file: str | None) -> bool:
        return file is not None and is_file_of(clip.name, file) and file in entries and _is_plain(entries[file])

    files = tuple(segment.file for segment in clip.segments if is_there(segment.file))
    part = clip.open_segment if is_there(clip.open_segment) else None
    return FoundClip(
        clip=clip,
        files=files,
        part=part,
        nbytes=sum(entries[file].st_size for file in (*files, *([part] if part else []))),
        changed_s=entries[f"{clip.name}.json"].st_mtime,
    )


def _is_plain(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode)


def _read_end(path: Path, *, whole: bool) -> bytes | None:
    """Return the last mebibyte of a file, or None where there is no file."""
    try:
        with open_ordinary(path) as file:
            nbytes = file.seek(0, os.SEEK_END)
            if whole and nbytes > _MOST_RECORD_NBYTES:
                raise OutputError(f"{path}: left out, it is too large ({nbytes} bytes)")
            file.seek(max(0, nbytes - _MOST_RECORD_NBYTES))
            return file.read(_MOST_RECORD_NBYTES)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise OutputError(f"{path} can't be read: {exc.strerror or exc}") from exc


def _load(data: bytes, path: Path) -> Any:
    try:
        found = json.loads(data)
        _refuse_deep(found)
        return found
    except (ValueError, RecursionError) as exc:
        raise OutputError(f"{path} is no JSON: {' '.join(str(exc).split())[:200]}") from exc


def _refuse_deep(found: Any) -> None:
    """Raise `ValueError` where containers are nested too deep to be written out again."""
    layer = [found]
    for _ in range(_MOST_DEPTH):
        layer = [one for container in layer for one in _contained(container) if isinstance(one, list | dict)]
        if not layer:
            return
    raise ValueError(f"it is nested more than {_MOST_DEPTH} deep")


def _contained(found: Any) -> Iterable[Any]:
    return found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()


def _shorten(lines: list[str]) -> tuple[str, ...]:
    if len(lines) <= _MOST_LINES:
        return tuple(lines)
    return (*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more")


def seconds_of(time: object) -> float | None:
    """Return a time of day, as ISO 8601 writes it, in seconds since 1970; None where it is no such time."""
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else None
    except (ValueError, OverflowError):
        return None


def is_left_open(found: FoundClip, *, is_recording: bool) -> bool:
    """Return whether a clip is called recording, and nobody records it any more."""
    return found.clip.state is ClipState.RECORDING and not is_recording
