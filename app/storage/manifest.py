"""A clip's manifest: what was asked for, what became of it, and in which files it is."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from ..clip import Clip, ClipState, DropCause, FrameCounts, Ranges, Segment, SnapshotFile
from ..config import check_name
from ..errors import OutputError
from .files import PART_SUFFIX, open_ordinary, sync_folder, write_whole
from .session_files import is_record
from .snapshot_file import SNAPSHOTS_SUFFIX

SCHEMA = 1
MAX_MANIFEST_BYTES = 8 * 2**20
"""A larger file is no manifest: parsed, it may take 33 times as much memory. A clip of 200,000 frames that lacks every
second one has 1.8 MB, and hardly anything takes more than that."""
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
        OutputError: the file can't be written; the one before is still there.
    """
    path = f"{folder}/{clip.name}.json"
    draft = path + PART_SUFFIX
    try:
        write_whole(draft, _to_text(_to_json(clip)).encode())
        os.replace(draft, path)
        sync_folder(folder)
    except OSError as exc:
        with suppress(OSError):
            os.unlink(draft)
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
        entries = [entry for entry in os.listdir(folder) if entry.startswith(name)]
        for number in count(1):
            candidate = name if number == 1 else f"{name}-{number}"
            taken = is_record(candidate) or any(is_file_of(candidate, entry) for entry in entries)
            if not taken and _make_empty(folder / f"{candidate}.json"):
                return candidate
    except OSError as exc:
        raise OutputError(f"{folder / name}.json can't be made: {exc.strerror or exc}") from exc
    raise AssertionError("numbers do not end")


def prune_clips(folder: Path, prefix: str, keep: int) -> list[str]:
    """Delete all but the `keep` last closed clips called `<prefix>-step-<N>` or `<prefix>-episode-<N>`.

    `<prefix>-step-<N>-to-step-<M>`, as Stable-Baselines3 calls them, are meant, too. A clip is as old as the last
    change of its manifest. Clips being recorded, and files that are not the manifest or a segment of such a clip, are
    left alone.

    Returns:
        The names of the clips deleted, oldest first.

    Raises:
        OutputError: a file can't be deleted; the clip keeps its manifest.
    """
    pattern = re.compile(re.escape(prefix) + r"-(step|episode)-\d+(-to-step-\d+)?(-\d+)?\.json")
    try:
        entries = os.listdir(folder)
        aged = [(os.stat(folder / entry).st_mtime_ns, entry) for entry in entries if pattern.fullmatch(entry)]
        closed = [entry.removesuffix(".json") for _, entry in sorted(aged) if _is_closed(folder / entry)]
        doomed = closed[: max(0, len(closed) - keep)]
        for name in doomed:
            _delete_files(folder, name, entries)
    except OSError as exc:
        raise OutputError(f"clips can't be deleted from {folder}: {exc.strerror or exc}") from exc
    return doomed


def is_file_of(clip: str, file_name: str) -> bool:
    """Return whether `file_name` is what a manifest or a segment, open or closed, of the clip is called."""
    if not file_name.startswith(clip + "."):
        return False
    return _CLIP_SUFFIX.fullmatch(file_name, len(clip)) is not None


_CLIP_SUFFIX = re.compile(r"\.json|(\.\d{3,})?\.mp4(\.part)?|\.snapshots\.npz(\.part)?", re.ASCII)


def _is_closed(path: Path) -> bool:
    try:
        return read_manifest(path).state is not ClipState.RECORDING
    except OutputError:
        return False


def delete_clip(folder: Path, name: str) -> None:
    """Delete the files of one clip.

    Raises:
        OutputError: a file can't be deleted; the clip keeps its manifest.
    """
    try:
        _delete_files(folder, name, os.listdir(folder))
    except OSError as exc:
        raise OutputError(f"{name} can't be deleted from {folder}: {exc.strerror or exc}") from exc


def _delete_files(folder: Path, name: str, entries: list[str]) -> None:
    # The manifest goes last, so that what an error leaves behind is deleted next time.
    for entry in entries:
        if is_file_of(name, entry) and entry != f"{name}.json":
            os.unlink(folder / entry)
    os.unlink(folder / f"{name}.json")


def _make_empty(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    return True


def _to_text(found: dict[str, Any]) -> str:
    """Return JSON with a line for each field and each segment: quick to make, and small however much is missing."""
    segments = ",\n  ".join(json.dumps(segment) for segment in found["segments"])
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items() if name != "segments"]
    lines.append(f'"segments": [\n  {segments}\n ]' if segments else '"segments": []')
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def _to_json(clip: Clip) -> dict[str, Any]:
    encoded = sum(segment.frames for segment in clip.segments)
    decided = encoded + clip.frames.dropped_total
    return {
        "schema": SCHEMA,
        "clip": clip.name,
        "stream": clip.stream,
        "backend": clip.backend,
        "state": clip.state.value,
        "start_step": clip.start_step,
        "end_step": clip.end_step,
        "frame_stride": clip.frame_stride,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
        "codec": clip.codec,
        "frames": {
            "requested": decided if clip.state is ClipState.RECORDING else clip.frames.requested,
            "encoded": encoded,
            "dropped": {str(cause): number for cause, number in clip.frames.dropped.items() if number},
            "missing_steps": [list(span) for span in clip.missing_steps],
            **_causes_to_json(clip.missing_by_cause),
        },
        "segments": [_segment_to_json(segment) for segment in clip.segments] + _open_segment_to_json(clip),
        **({"snapshots": _snapshots_to_json(clip.snapshots)} if clip.snapshots else {}),
    }


def _causes_to_json(by_cause: Mapping[DropCause, Ranges]) -> dict[str, Any]:
    """Return which steps are missing why, where that does not go without saying."""
    if len(by_cause) < 2 or sum(map(len, by_cause.values())) > _MOST_RANGES_BY_CAUSE:
        return {}
    return {"missing_by_cause": {str(cause): [list(span) for span in spans] for cause, spans in by_cause.items()}}


def _segment_to_json(segment: Segment) -> dict[str, Any]:
    return {
        "file": segment.file,
        "first_step": segment.first_step,
        "last_step": segment.last_step,
        "frames": segment.frames,
        "bytes": segment.nbytes,
        "duration_s": segment.duration_s,
    }


def _snapshots_to_json(snapshots: SnapshotFile) -> dict[str, Any]:
    return {"file": snapshots.file, "frames": snapshots.frames, "bytes": snapshots.nbytes}


def _open_segment_to_json(clip: Clip) -> list[dict[str, Any]]:
    if clip.open_segment is None:
        return []
    first_step = clip.segments[-1].last_step + clip.frame_stride if clip.segments else clip.start_step
    return [{"file": clip.open_segment, "first_step": first_step, "open": True}]


class _FieldError(ValueError):
    """A field is not what it must be."""


def _parse(data: bytes) -> Any:
    if len(data) > MAX_MANIFEST_BYTES:
        raise _FieldError(f"it has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise _FieldError("it is nested too deep") from exc
    except ValueError as exc:
        raise _FieldError(f"no JSON: {' '.join(str(exc).split())[:200]}") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise _FieldError(f"{name} is no JSON number")


def _to_clip(found: Any, name: str) -> Clip:
    fields = _Fields(found, "")
    if fields.get("schema", _whole(0)) != SCHEMA:
        raise _FieldError(f"schema: got {_short(found['schema'])}; allowed: {SCHEMA}")
    if fields.get("clip", _file_part) != name:
        raise _FieldError(f"clip: got {_short(found['clip'])}; allowed: {name!r}, the name of the file")
    closed, open_segment = _to_segments(fields.get("segments", _list), name)
    frames = _Fields(fields.get("frames", _mapping), "frames.")
    dropped = _to_dropped(frames.get("dropped", _mapping))
    missing_steps = _to_spans(frames.get("missing_steps", _list), "frames.missing_steps")
    return Clip(
        name=name,
        stream=fields.get("stream", _line),
        backend=fields.get("backend", _line),
        state=ClipState(fields.get("state", _member(ClipState))),
        start_step=fields.get("start_step", _whole(-_MAX_WHOLE)),
        end_step=fields.get("end_step", _optional(_whole(-_MAX_WHOLE))),
        frame_stride=fields.get("frame_stride", _whole(1)),
        fps=fields.get("fps", _real),
        width=fields.get("width", _optional(_whole(1))),
        height=fields.get("height", _optional(_whole(1))),
        codec=fields.get("codec", _optional(_line)),
        frames=FrameCounts(
            requested=frames.get("requested", _whole(0)),
            encoded=frames.get("encoded", _whole(0)),
            dropped=dropped,
        ),
        missing_steps=missing_steps,
        missing_by_cause=_to_causes(found["frames"].get("missing_by_cause"), dropped, missing_steps),
        segments=closed,
        open_segment=open_segment,
        snapshots=_to_snapshots(_Fields(found["snapshots"], "snapshots."), name) if "snapshots" in found else None,
    )


def _to_segments(found: list[Any], name: str) -> tuple[tuple[Segment, ...], str | None]:
    closed: list[Segment] = []
    for place, entry in enumerate(found):
        fields = _Fields(entry, f"segments[{place}].")
        if isinstance(entry, dict) and entry.get("open") is True:
            fields.get("first_step", _whole(-_MAX_WHOLE))
            if place != len(found) - 1:
                raise _FieldError(f"segments[{place}]: open, and not the last one")
            return tuple(closed), fields.get("file", _segment_file(name, ".mp4" + PART_SUFFIX))
        closed.append(_to_segment(fields, name))
    if len({segment.file for segment in closed}) < len(closed):
        raise _FieldError("segments: a file is listed twice")
    return tuple(closed), None


def _to_segment(fields: _Fields, name: str) -> Segment:
    return Segment(
        file=fields.get("file", _segment_file(name, ".mp4")),
        first_step=fields.get("first_step", _whole(-_MAX_WHOLE)),
        last_step=fields.get("last_step", _whole(-_MAX_WHOLE)),
        frames=fields.get("frames", _whole(0)),
        nbytes=fields.get("bytes", _whole(0)),
        duration_s=fields.get("duration_s", _real),
    )


def _to_snapshots(fields: _Fields, name: str) -> SnapshotFile:
    def file(value: Any) -> str | None:
        return None if value == f"{name}{SNAPSHOTS_SUFFIX}" else f"{name}{SNAPSHOTS_SUFFIX}"

    return SnapshotFile(
        file=fields.get("file", file), frames=fields.get("frames", _whole(1)), nbytes=fields.get("bytes", _whole(0))
    )


def _to_dropped(found: Mapping[str, Any]) -> dict[DropCause, int]:
    fields = _Fields(found, "frames.dropped.")
    for cause in found:
        _check("frames.dropped", cause, _member(DropCause))
    return {DropCause(cause): fields.get(cause, _whole(0)) for cause in found}


def _to_causes(found: Any, dropped: Mapping[DropCause, int], missing_steps: Ranges) -> dict[DropCause, Ranges]:
    """Return which steps are missing why: what the manifest says, or all of them where there is one cause."""
    place = "frames.missing_by_cause"
    if found is None:
        causes = [cause for cause, number in dropped.items() if number]
        return {causes[0]: missing_steps} if len(causes) == 1 and missing_steps else {}
    fields = _Fields(found, f"{place}.")
    for cause in found:
        _check(place, cause, _member(DropCause))
    return {DropCause(cause): _to_spans(fields.get(cause, _list), f"{place}.{cause}") for cause in found}


def _to_spans(found: list[Any], place: str) -> Ranges:
    return tuple(_to_span(span, place) for span in found)


def _to_span(found: Any, place: str) -> tuple[int, int]:
    whole = _whole(-_MAX_WHOLE)
    if not isinstance(found, list) or len(found) != 2 or any(whole(step) for step in found) or found[0] > found[1]:
        raise _FieldError(f"{place}: got {_short(found)}; allowed: [first step, last step]")
    return (found[0], found[1])


Check = Callable[[Any], str | None]
"""Returns what is allowed where a value is not, else None."""


class _Fields:
    """The fields of one JSON object; `place` goes before their names in errors."""

    def __init__(self, found: Any, place: str) -> None:
        if not isinstance(found, Mapping):
            raise _FieldError(f"{place.rstrip('.') or 'it'}: got {_short(found)}; allowed: an object")
        self._found = found
        self._place = place

    def get(self, name: str, check: Check) -> Any:
        """Return a field that passes its check."""
        if name not in self._found:
            raise _FieldError(f"{self._place}{name} is missing")
        _check(self._place + name, self._found[name], check)
        return self._found[name]


def _check(place: str, value: Any, check: Check) -> None:
    allowed = check(value)
    if allowed:
        raise _FieldError(f"{place}: got {_short(value)}; allowed: {allowed}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _whole(low: int) -> Check:
    def check(value: Any) -> str | None:
        return None if type(value) is int and low <= value <= _MAX_WHOLE else f"a whole number from {low}"

    return check


def _real(value: Any) -> str | None:
    usable = type(value) in (int, float) and 0 < value <= _MAX_WHOLE and math.isfinite(value)
    return None if usable else "a number above 0"


def _line(value: Any) -> str | None:
    usable = isinstance(value, str) and len(value) <= 200 and value.isprintable()
    return None if usable else "a line of at most 200 characters"


def _file_part(value: Any) -> str | None:
    # Room for the number that `reserve_name` adds.
    if not isinstance(value, str) or len(value) > 160 or not value.isprintable():
        return "the name of a clip"
    checked = value[:100].encode(errors="replace")[:180].decode(errors="ignore")
    usable = check_name(checked) is None
    return None if usable and not {"/", "\\"} & set(value) else "the name of a clip"


def _segment_file(name: str, suffix: str) -> Check:
    pattern = re.compile(re.escape(name) + r"(\.\d{3,9})?" + re.escape(suffix), re.ASCII)

    def check(value: Any) -> str | None:
        return None if isinstance(value, str) and pattern.fullmatch(value) else f"{name}[.<number>]{suffix}"

    return check


def _list(value: Any) -> str | None:
    return None if isinstance(value, list) else "a list"


def _mapping(value: Any) -> str | None:
    return None if isinstance(value, dict) else "an object"


def _member(kind: type[ClipState] | type[DropCause]) -> Check:
    def check(value: Any) -> str | None:
        values = [member.value for member in kind]
        return None if isinstance(value, str) and value in values else "one of " + ", ".join(values)

    return check


def _optional(inner: Check) -> Check:
    def check(value: Any) -> str | None:
        allowed = None if value is None else inner(value)
        return f"{allowed} or null" if allowed else None

    return check
