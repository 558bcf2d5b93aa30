"""A clip's manifest: what was asked for, what became of it, and in which files it is.

Imported by the recording service too, so without numpy and FFmpeg.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, fields, replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from ..clip import Clip, ClipState, DropCause, FrameCounts, Ranges, Segment, SnapshotFile
from ..config import check_name
from ..errors import OutputError
from .files import PART_SUFFIX, open_ordinary, replace_whole
from .segment_label import labelled_clip
from .session_files import is_record
from .snapshot_format import SNAPSHOTS_SUFFIX

SCHEMA = 1
MAX_MANIFEST_BYTES = 8 * 2**20
"""A larger file is no manifest: a clip of 200,000 frames that lacks every second one has 1.8 MB, and hardly anything
takes more than that."""
_MOST_RANGES_BY_CAUSE = 100_000
"""With more, a manifest could be too large to be read again."""
MAX_STEPS = 4_000_000
"""A manifest with more is damaged: this would be more than a day of video."""
_MAX_WHOLE = 2**53


def write_manifest(folder: Path, clip: Clip) -> None:
    """Write `<clip.name>.json`, whole or not at all, in place of the one before.

    `encoded` counts frames of closed segments; while the clip is recorded, `requested` counts what has been
    decided so far.

    Raises:
        OutputError: the file can't be written, or is a link; the one before is still there.
    """
    path = folder / f"{clip.name}.json"
    try:
        replace_whole(path, _to_text(msgspec.to_builtins(_to_manifest(clip))).encode())
    except OSError as exc:
        raise OutputError(f"{path} can't be written: {exc.strerror or exc}") from exc


def read_manifest(path: Path) -> Clip:
    """Return the clip that a manifest, or its draft, tells of, checked to the last field. Other keys are passed over.

    Raises:
        OutputError: it can't be read, or isn't the manifest of a clip of the file's name; one line, with the field.
    """
    try:
        with open_ordinary(path) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as exc:
        raise OutputError(f"{path} can't be read: {exc.strerror or exc}") from exc
    try:
        clip = _to_clip(_parse(data), path.name.removesuffix(PART_SUFFIX).removesuffix(".json"))
    except _FieldError as exc:
        raise OutputError(f"{path} is not the manifest of a clip: {exc}") from exc
    return replace(clip, folder=path.parent)


def reserve_name(folder: Path, name: str) -> str:
    """Make an empty `<name>.json`, and return the name; `<name>-2`, `<name>-3`, ... where any such file is there.

    Nobody else gets the name, from whatever process they ask.

    Raises:
        OutputError: no file can be made in the folder.
    """
    try:
        # A draft of a manifest would be overwritten, so it takes the name as well.
        entries = (entry.removesuffix(PART_SUFFIX) for entry in os.listdir(folder) if entry.startswith(name))
        taken = {owner for entry in entries for owner in _possible_owners(entry)}
        if is_record(name):
            taken.add(name)
        for number in count(1):
            candidate = name if number == 1 else f"{name}-{number}"
            if candidate not in taken and _make_empty(folder / f"{candidate}.json"):
                return candidate
    except OSError as exc:
        raise OutputError(f"{folder / name}.json can't be made: {exc.strerror or exc}") from exc
    raise AssertionError("numbers do not end")


def prune_clips(folder: Path, prefix: str, keep: int, undecided: Collection[str] = frozenset()) -> list[str]:
    """Delete all but the `keep` last closed clips called `<prefix>-step-<N>` or `<prefix>-episode-<N>`.

    `<prefix>-step-<N>-to-step-<M>`, as Stable-Baselines3 calls them, are meant, too. A clip is as old as the last
    change of its manifest. Clips being recorded, links, and files that are not the manifest or a segment of such a
    clip, are left alone.

    Args:
        folder: The output folder.
        prefix: What the names of the clips begin with.
        keep: How many stay.
        undecided: Names of clips of which is not known yet whether they stay: they neither count nor are deleted.

    Returns:
        The names of the clips deleted, oldest first.

    Raises:
        OutputError: a file can't be deleted; the clip keeps its manifest.
    """
    pattern = re.compile(re.escape(prefix) + r"-(step|episode)-\d+(-to-step-\d+)?(-\d+)?\.json")
    try:
        entries = os.listdir(folder)
        aged = [(os.lstat(folder / entry).st_mtime_ns, entry) for entry in entries if pattern.fullmatch(entry)]
        names = [entry.removesuffix(".json") for _, entry in sorted(aged)]
        closed = [name for name in names if name not in undecided and _is_closed(folder / f"{name}.json")]
        doomed = closed[: max(0, len(closed) - keep)]
        for name in doomed:
            _delete_files(folder, name, entries)
    except OSError as exc:
        raise OutputError(f"clips can't be deleted from {folder}: {exc.strerror or exc}") from exc
    return doomed


def delete_clip(folder: Path, name: str) -> None:
    """Delete the files of one clip, but no links and nothing that may be of another clip.

    Raises:
        OutputError: a file can't be deleted; the clip keeps its manifest.
    """
    try:
        _delete_files(folder, name, os.listdir(folder))
    except OSError as exc:
        raise OutputError(f"{name} can't be deleted from {folder}: {exc.strerror or exc}") from exc


def is_file_of(clip: str, file_name: str) -> bool:
    """Return whether `file_name` is what a manifest or a segment, open or closed, of the clip is called.

    Segment 1 of `run` and the only segment of `run.001` are called the same; `files_of` tells them apart.
    """
    return clip in _possible_owners(file_name)


def files_of(folder: Path, name: str, entries: Collection[str]) -> list[str]:
    """Return which entries of a folder are files of a clip, its manifest among them.

    Where the name of a file fits two clips, it belongs to the one that its label names; without a label, to the only
    one whose manifest lists it, or else to the only one that has a manifest.
    """
    return [entry for entry in entries if entry.startswith(name) and _owner(folder, entry, entries) == name]


def _possible_owners(file_name: str) -> tuple[str, ...]:
    if file_name.endswith(".json"):
        names: tuple[str, ...] = (file_name.removesuffix(".json"),)
    elif (stem := file_name.removesuffix(PART_SUFFIX)).endswith(SNAPSHOTS_SUFFIX):
        names = (stem.removesuffix(SNAPSHOTS_SUFFIX),)
    elif stem.endswith(".mp4"):
        shorter, _, number = stem.removesuffix(".mp4").rpartition(".")
        is_numbered = len(number) >= 3 and number.isascii() and number.isdecimal()
        names = (shorter, f"{shorter}.{number}") if is_numbered and shorter else (stem.removesuffix(".mp4"),)
    else:
        names = ()
    return names if all(names) else ()


def _owner(folder: Path, entry: str, entries: Collection[str]) -> str | None:
    owners = _possible_owners(entry)
    if len(owners) < 2:
        return next(iter(owners), None)
    try:
        label = labelled_clip(folder / entry)
    except OSError:  # Gone meanwhile, or a link.
        return None
    if label is not None:
        return label if label in owners else None
    known = [owner for owner in owners if f"{owner}.json" in entries]
    listing = [owner for owner in known if entry in _listed(folder / f"{owner}.json")]
    return next((found[0] for found in (listing, known) if len(found) == 1), None)


def _listed(path: Path) -> set[str | None]:
    try:
        clip = read_manifest(path)
    except OutputError:
        return set()
    return {segment.file for segment in clip.segments} | {clip.open_segment}


def _is_closed(path: Path) -> bool:
    try:
        return read_manifest(path).state is not ClipState.RECORDING
    except OutputError:
        return False


def _delete_files(folder: Path, name: str, entries: Collection[str]) -> None:
    manifest = f"{name}.json"
    if os.path.islink(folder / manifest):
        raise OSError(errno.ELOOP, f"{manifest} is a link, and links are not followed")
    for entry in files_of(folder, name, entries):
        if entry != manifest and not os.path.islink(folder / entry):
            os.unlink(folder / entry)
    os.unlink(folder / manifest)  # Last, so that an error leaves a clip that is deleted next time.


def _make_empty(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    return True


_Step = Annotated[int, Meta(ge=-_MAX_WHOLE, le=_MAX_WHOLE)]
_Count = Annotated[int, Meta(ge=0, le=_MAX_WHOLE)]
_Positive = Annotated[int, Meta(ge=1, le=_MAX_WHOLE)]
_Real = Annotated[float, Meta(gt=0, le=_MAX_WHOLE)]
_Line = Annotated[str, Meta(max_length=200)]
_Spans = tuple[tuple[_Step, _Step], ...]


class _Frames(Struct, kw_only=True):
    requested: _Count
    encoded: _Count
    dropped: dict[DropCause, _Count]
    missing_steps: _Spans
    missing_by_cause: dict[DropCause, _Spans] | UnsetType = UNSET
    """Left out where it goes without saying."""


class _Segment(Struct, kw_only=True):
    file: str
    first_step: _Step
    last_step: _Step | UnsetType = UNSET
    frames: _Count | UnsetType = UNSET
    nbytes: _Count | UnsetType = msgspec.field(default=UNSET, name="bytes")
    duration_s: _Real | UnsetType = UNSET
    is_open: bool | UnsetType = msgspec.field(default=UNSET, name="open")

    def __post_init__(self) -> None:
        for name, value in () if self.is_open else structs.asdict(self).items():
            if value is UNSET and name != "is_open":
                raise ValueError(f"Object missing required field `{'bytes' if name == 'nbytes' else name}`")


class _Snapshots(Struct, kw_only=True):
    file: str
    frames: _Positive
    nbytes: _Count = msgspec.field(name="bytes")


class _Manifest(Struct, kw_only=True):
    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    clip: str
    stream: _Line
    backend: _Line
    state: ClipState
    start_step: _Step
    end_step: _Step | None
    ended: _Line | UnsetType = UNSET
    frame_stride: _Positive
    fps: _Real
    width: _Positive | None
    height: _Positive | None
    codec: _Line | None
    frames: _Frames
    segments: tuple[_Segment, ...]
    snapshots: _Snapshots | UnsetType = UNSET


def _to_text(found: dict[str, Any]) -> str:
    """Return JSON with a line for each field and each segment: quick to make, and small however much is missing."""
    segments = ",\n  ".join(json.dumps(segment) for segment in found["segments"])
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items() if name != "segments"]
    lines.append(f'"segments": [\n  {segments}\n ]' if segments else '"segments": []')
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def _to_manifest(clip: Clip) -> _Manifest:
    encoded = sum(segment.frames for segment in clip.segments)
    decided = encoded + clip.frames.dropped_total
    by_cause = clip.missing_by_cause
    is_told = len(by_cause) > 1 and sum(map(len, by_cause.values())) <= _MOST_RANGES_BY_CAUSE
    return _Manifest(
        schema=SCHEMA,
        clip=clip.name,
        ended=clip.ended or UNSET,
        frames=_Frames(
            requested=decided if clip.state is ClipState.RECORDING else clip.frames.requested,
            encoded=encoded,
            dropped={cause: number for cause, number in clip.frames.dropped.items() if number},
            missing_steps=clip.missing_steps,
            missing_by_cause=dict(by_cause) if is_told else UNSET,
        ),
        segments=(*(_Segment(**asdict(segment)) for segment in clip.segments), *_to_open(clip)),
        snapshots=_Snapshots(**asdict(clip.snapshots)) if clip.snapshots else UNSET,
        **_fields(clip, _SAME),
    )


_SAME = ("stream", "backend", "state", "start_step", "end_step", "frame_stride", "fps", "width", "height", "codec")
"""Fields that are called the same in a clip and in its manifest, and are of the same type."""
_SEGMENT = tuple(one.name for one in fields(Segment))


def _fields(source: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _to_open(clip: Clip) -> Iterable[_Segment]:
    if clip.open_segment is not None:
        first_step = clip.segments[-1].last_step + clip.frame_stride if clip.segments else clip.start_step
        yield _Segment(file=clip.open_segment, first_step=first_step, is_open=True)


class _FieldError(ValueError):
    """A field is not what it must be."""


def _refusal(place: str, value: object, allowed: str) -> _FieldError:
    text = ascii(value)
    return _FieldError(f"{place}: got {text if len(text) <= 80 else text[:77] + '...'}; allowed: {allowed}")


def _parse(data: bytes) -> _Manifest:
    if len(data) > MAX_MANIFEST_BYTES:
        raise _FieldError(f"it has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        return _DECODER.decode(data)
    except msgspec.ValidationError as exc:
        raise _explained(data, str(exc)) from exc
    except RecursionError as exc:
        raise _FieldError("it is nested too deep") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        place = re.search(r"\(byte (\d+)\)", str(exc))
        found = f" at {data[int(place[1]) :][:20]!a}" if place else ""
        raise _FieldError(f"no JSON: {' '.join(str(exc).split())}{found}") from exc


_DECODER = msgspec.json.Decoder(_Manifest)
_VALUES: dict[str, Any] = {"dropped": _Count, "missing_by_cause": _Spans}
"""Types of the values in objects whose keys are causes."""
_ENUMS = {"state": ClipState, "dropped": DropCause, "missing_by_cause": DropCause}


def _explained(data: bytes, problem: str) -> _FieldError:
    """Return the error that adds to msgspec's words what was found at the place that they name."""
    expected, _, path = problem.partition(" - at ")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return _FieldError(f"{path or 'it'}: {expected}")
    place = name = ""
    for key, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        if key:
            name, found, place = key, found[key], f"{place}.{key}"
        elif index == "...":  # An object with causes: msgspec doesn't tell which of its values it means.
            cause = next(cause for cause, value in found.items() if not _fits(value, _VALUES[name]))
            found, place = found[cause], f"{place}.{cause}"
        else:
            found, place = found[int(index)], f"{place}[{index}]"
    place = place.removeprefix(".")
    if missing := re.search(r"missing required field `(\w+)`", expected):
        return _FieldError(f"{place}.{missing[1]} is missing".removeprefix("."))
    allowed = (
        f"one of {', '.join(_ENUMS[name])}"
        if "enum" in expected
        else expected.removeprefix("Expected ").split(", got")[0]
    )
    return _refusal(place or "it", found, allowed.replace("`", ""))


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def _to_clip(found: _Manifest, name: str) -> Clip:
    if found.clip != name or not _is_clip_name(name):
        raise _refusal("clip", found.clip, f"{name!r}, the name of the file")
    for place, line in (("stream", found.stream), ("backend", found.backend), ("codec", found.codec)):
        _check_line(place, line)
    _check_line("ended", found.ended or None)
    frames = found.frames
    by_cause = frames.missing_by_cause
    _check_spans("frames.missing_steps", frames.missing_steps)
    if by_cause is UNSET:  # Where there is one cause, it is the cause of all.
        causes = [cause for cause, number in frames.dropped.items() if number]
        by_cause = {causes[0]: frames.missing_steps} if len(causes) == 1 and frames.missing_steps else {}
    for cause, spans in by_cause.items():
        _check_spans(f"frames.missing_by_cause.{cause}", spans)
    closed, open_segment = _to_segments(found.segments, name)
    return Clip(
        name=name,
        ended=found.ended or None,
        frames=FrameCounts(requested=frames.requested, encoded=frames.encoded, dropped=frames.dropped),
        missing_steps=frames.missing_steps,
        missing_by_cause=by_cause,
        segments=closed,
        open_segment=open_segment,
        snapshots=_to_snapshots(found.snapshots, name) if found.snapshots else None,
        **_fields(found, _SAME),
    )


def _to_segments(found: tuple[_Segment, ...], name: str) -> tuple[tuple[Segment, ...], str | None]:
    stem = re.compile(re.escape(name) + r"(\.\d{3,9})?", re.ASCII)
    for place, one in enumerate(found):
        suffix = f".mp4{PART_SUFFIX}" if one.is_open else ".mp4"
        if not (one.file.endswith(suffix) and stem.fullmatch(one.file.removesuffix(suffix))):
            raise _refusal(f"segments[{place}].file", one.file, f"{name}[.<number>]{suffix}")
        if one.is_open and place != len(found) - 1:
            raise _FieldError(f"segments[{place}]: open, and not the last one")
    closed = tuple(Segment(**_fields(one, _SEGMENT)) for one in found if not one.is_open)
    if len({segment.file for segment in closed}) < len(closed):
        raise _FieldError("segments: a file is listed twice")
    return closed, found[-1].file if found and found[-1].is_open else None


def _to_snapshots(found: _Snapshots, name: str) -> SnapshotFile:
    if found.file != f"{name}{SNAPSHOTS_SUFFIX}":
        raise _refusal("snapshots.file", found.file, f"{name}{SNAPSHOTS_SUFFIX}")
    return SnapshotFile(**structs.asdict(found))


def _check_line(place: str, value: str | None) -> None:
    if value is not None and not value.isprintable():
        raise _refusal(place, value, "a line of at most 200 printable characters")


def _check_spans(place: str, spans: Ranges) -> None:
    for first, last in spans:
        if first > last:
            raise _refusal(place, [first, last], "[first step, last step]")


def _is_clip_name(name: str) -> bool:
    # Room for the number that `reserve_name` adds.
    if len(name) > 160 or not name.isprintable() or {"/", "\\"} & set(name):
        return False
    return check_name(name[:100].encode(errors="replace")[:180].decode(errors="ignore")) is None
