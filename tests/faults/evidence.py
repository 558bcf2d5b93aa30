"""What the files say, by PyAV and the manifests alone: nothing of stepreel looks at them here."""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from stepreel.backends.synthetic import read_step


class Broken(Exception):
    """A promise that was not kept."""


def require(condition: object, detail: str) -> None:
    if not condition:
        raise Broken(detail)


@dataclass(kw_only=True)
class Video:
    """What one MP4 shows."""

    clip: str
    start_step: int
    stride: int
    fps: Fraction
    end_s: Fraction
    steps: list[int] = field(default_factory=list)


def decode(path: Path, every: int = 1) -> Video:
    """Decode a closed segment to its end; `every` n-th picture is compared with its place on the timeline, 0: none."""
    return _decode(path.read_bytes(), path.name, every)


def decode_part(path: Path, every: int = 1) -> Video | None:
    """Decode an open segment up to its last fragment; None where there is no fragment yet."""
    data = path.read_bytes()
    end, kinds = _end_of_fragments(data)
    return _decode(data[:end], path.name, every) if b"mdat" in kinds else None


def _decode(data: bytes, name: str, every: int) -> Video:
    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            label = json.loads(container.metadata["comment"])
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            end = max((packet.dts or 0) + (packet.duration or 0) for packet in packets)
            video = Video(
                clip=label["clip"],
                start_step=label["start_step"],
                stride=label["frame_stride"],
                fps=Fraction(label["fps"]),
                end_s=Fraction(end) * (stream.time_base or 1),
            )
            # A frame of the video takes so much of the stream's time; whole numbers, for clips of very many.
            tick = (stream.time_base or 1) * video.fps
            container.seek(0)
            stream.codec_context.thread_count = 1
            for number, frame in enumerate(container.decode(stream)):
                require(frame.time_base == stream.time_base, f"{name}: a frame has a time of its own")
                place, beside = divmod((frame.pts or 0) * tick.numerator, tick.denominator)
                require(not beside, f"{name}: a frame lies between two steps")
                step = video.start_step + place * video.stride
                if every and number % every == 0:
                    shown = read_step(_luma(frame))
                    require(shown == step, f"{name}: shows step {shown} at the time of step {step}")
                video.steps.append(step)
    except (av.FFmpegError, KeyError, ValueError) as exc:
        raise Broken(f"{name} can't be decoded: {type(exc).__name__}: {exc}") from exc
    require(len(video.steps) == len(packets), f"{name}: {len(packets)} packets, {len(video.steps)} frames")
    require(video.steps == sorted(set(video.steps)), f"{name}: steps out of order")
    return video


def _luma(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Return the brightness of a decoded picture, without converting it: shape `[height, width]`."""
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _end_of_fragments(data: bytes) -> tuple[int, set[bytes]]:
    """Return the end of the last whole box, and what boxes there are."""
    offset, kinds, end = 0, set(), 0
    while offset + 8 <= len(data):
        nbytes, kind = struct.unpack_from(">I4s", data, offset)
        if nbytes == 1 and offset + 16 <= len(data):
            (nbytes,) = struct.unpack_from(">Q", data, offset + 8)
        if nbytes < 8 or offset + nbytes > len(data):
            break
        offset += nbytes
        kinds.add(kind)
        if kind in (b"moov", b"mdat", b"mfra"):
            end = offset
    return end, kinds


@dataclass(kw_only=True)
class ClipEvidence:
    """A clip's manifest, and the steps that its files really show."""

    name: str
    manifest: dict[str, Any]
    closed: dict[str, Video]
    """By file name; also those that the manifest does not list yet."""
    open: dict[str, Video | None]

    @property
    def state(self) -> str:
        return str(self.manifest.get("state", ""))

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.manifest["frames"]["dropped"])

    @property
    def steps(self) -> set[int]:
        """Steps that can be seen, in closed files and in what can be played of open ones."""
        videos = [*self.closed.values(), *(video for video in self.open.values() if video)]
        return {step for video in videos for step in video.steps}


_SESSION = re.compile(r"session(-rank\d+)?(\.json|\.jsonl|-pace\.json)")
"""Files of the session itself."""


def manifests(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.glob("*.json") if not _SESSION.fullmatch(path.name))
    return [path for path in paths if _is_plain(path)]


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def look(folder: Path, every: int = 1) -> list[ClipEvidence]:
    """Decode everything in a folder. A reserved name, which is an empty manifest, is a clip without state."""
    found = {
        path.stem: ClipEvidence(name=path.stem, manifest=_parse(path), closed={}, open={}) for path in manifests(folder)
    }
    for path in filter(_is_plain, sorted(folder.glob("*.mp4"))):
        video = decode(path, every)
        _clip_of(found, video.clip, path).closed[path.name] = video
    for path in filter(_is_plain, sorted(folder.glob("*.mp4.part"))):
        part = decode_part(path, every)
        name = part.clip if part else path.name.removesuffix(".mp4.part").rpartition(".")[0]
        _clip_of(found, name, path).open[path.name] = part
    return list(found.values())


def _clip_of(found: dict[str, ClipEvidence], name: str, path: Path) -> ClipEvidence:
    require(name in found, f"{path.name} belongs to {name}, which has no manifest")
    return found[name]


def _parse(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    if not data:
        return {}
    try:
        found = json.loads(data)
    except ValueError as exc:
        raise Broken(f"{path.name} is half written: {exc}") from exc
    require(isinstance(found, dict), f"{path.name} is no object")
    return dict(found)


def check_segments(clip: ClipEvidence, folder: Path) -> None:
    """Every segment that the manifest calls closed is there, and is as it says."""
    for entry in clip.manifest.get("segments", []):
        name = entry["file"]
        if entry.get("open"):
            continue
        require(name in clip.closed, f"{name} is listed as closed and is not there")
        video = clip.closed[name]
        said = (entry["frames"], entry["first_step"], entry["last_step"], entry["bytes"])
        real = (len(video.steps), video.steps[0], video.steps[-1], (folder / name).stat().st_size)
        require(said == real, f"{name}: the manifest says {said}, the file {real}")
        require(
            abs(entry["duration_s"] - float(video.end_s)) < 0.5 / float(video.fps) and entry["duration_s"] > 0,
            f"{name}: the manifest says {entry['duration_s']} s, the file {float(video.end_s)} s",
        )


def check_clip(clip: ClipEvidence, folder: Path) -> None:
    """A clip that is done: the accounting holds, and manifest and files say the same."""
    name, manifest = clip.name, clip.manifest
    require(manifest, f"{name}.json is empty")
    require(clip.state != "recording", f"{name} is still called recording")
    require(not clip.open, f"{name}: {', '.join(clip.open)} left open")
    check_segments(clip, folder)
    listed = {entry["file"] for entry in manifest["segments"]}
    require(set(clip.closed) == listed, f"{name}: files {sorted(clip.closed)}, listed {sorted(listed)}")
    frames = manifest["frames"]
    # In the order of the manifest: what `recover` draws may lie between files that are older.
    shown = [step for entry in manifest["segments"] for step in clip.closed[entry["file"]].steps]
    missing = expand(frames["missing_steps"], manifest["frame_stride"])
    require(shown == sorted(set(shown)), f"{name}: a step is shown twice")
    require(frames["encoded"] == len(shown), f"{name}: {frames['encoded']} encoded, {len(shown)} shown")
    require(
        frames["requested"] == frames["encoded"] + sum(frames["dropped"].values()),
        f"{name}: requested is not encoded + dropped: {frames}",
    )
    require(sum(frames["dropped"].values()) == len(missing), f"{name}: dropped and missing steps differ: {frames}")
    require(not set(missing) & set(shown), f"{name}: steps called missing are shown")
    if missing or shown:
        asked = set(shown) | set(missing)
        grid = set(range(manifest["start_step"], max(asked) + 1, manifest["frame_stride"]))
        require(asked <= grid, f"{name}: steps beside the clip's grid")
        # Nothing in the harness pauses a recorder, so every step of the span was asked for.
        require(asked == grid, f"{name}: {len(grid - asked)} steps are neither shown nor missing")
    kept = check_snapshots(clip, folder, set(missing))
    expected = "complete" if not missing else "incomplete" if shown else "unrendered" if kept else "failed"
    # Of a clip that was killed before anything was asked for, nobody knows whether it is complete.
    empty = {"failed"} if not shown and not missing else set()
    require(clip.state in {expected, "recovered", *empty}, f"{name}: {clip.state}, {frames}")


def check_snapshots(clip: ClipEvidence, folder: Path, missing: set[int]) -> int:
    """Return how many snapshots of the clip are kept: of steps that it lacks, each of them whole."""
    said = clip.manifest.get("snapshots")
    path = folder / f"{clip.name}.snapshots.npz"
    require(path.exists() == bool(said), f"{path.name}: the manifest says {said}, and it is there: {path.exists()}")
    if not said:
        return 0
    with np.load(path, allow_pickle=False) as members:
        steps = {int(name.removeprefix("steps/")) for name in members.files if name.startswith("steps/")}
        require(all(members[f"steps/{step}"].size for step in steps), f"{path.name}: a snapshot is empty")
    require(steps <= missing, f"{path.name}: steps {sorted(steps - missing)[:5]} are not missing")
    require((said["file"], said["frames"]) == (path.name, len(steps)), f"{path.name}: {len(steps)} steps, not {said}")
    require(said["bytes"] == path.stat().st_size, f"{path.name}: {path.stat().st_size} bytes, not {said}")
    return len(steps)


def check_done(folder: Path, every: int = 1) -> list[ClipEvidence]:
    """Every clip of a folder is done and right, and nothing else lies about."""
    clips = look(folder, every)
    for clip in clips:
        check_clip(clip, folder)
    require(not left_overs(folder), f"left behind: {', '.join(left_overs(folder))}")
    return clips


def check_alive(folder: Path, every: int = 1) -> list[ClipEvidence]:
    """What holds after any kill: what is closed is whole, and at most one segment of a clip is open."""
    clips = look(folder, every)
    for clip in clips:
        check_segments(clip, folder)
        require(len(clip.open) <= 1, f"{clip.name}: {len(clip.open)} open segments")
        shown = [step for video in [*clip.closed.values(), *clip.open.values()] if video for step in video.steps]
        require(len(shown) == len(set(shown)), f"{clip.name}: a step is shown twice")
    return clips


def left_overs(folder: Path) -> list[str]:
    """Names of files that are neither a clip's nor the session's."""
    entries = {path.name for path in folder.iterdir() if not _SESSION.fullmatch(path.name)}
    return sorted(name for name in entries if not name.endswith((".mp4", ".json", ".snapshots.npz")))


def captured(config: dict[str, Any], steps: int) -> set[int]:
    """Return which of so many steps a recorder with these settings has captured."""
    length, interval = config["video_length"], config["video_interval"]
    return {step for step in range(steps) if (step % interval if interval else step) < length}


def shown(clips: Iterable[ClipEvidence]) -> set[int]:
    """Return every step that can be seen."""
    return {step for clip in clips for step in clip.steps}


def expand(spans: Iterable[list[int]], stride: int) -> list[int]:
    return [step for first, last in spans for step in range(first, last + 1, stride)]


def fingerprint(folder: Path) -> dict[str, str]:
    """Return what is in a folder, to be compared with later."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mtime_ns} {sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def dropped_in(summary: dict[str, Any]) -> int:
    """Return the dropped frames, of whatever cause, of what a training program told."""
    return sum(int(number) for number in summary["dropped"].values())
