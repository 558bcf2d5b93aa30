"""Folders that somebody else has been at."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np

from .. import evidence
from ..browsing import ask, viewed
from ..evidence import require
from ..harness import Try, has_command
from ..matrix import row

_TIMEOUT_S = 30.0


def _record(one: Try) -> None:
    """Record two clips; of the second, a segment is open."""
    config = {"fps": 30, "video_length": 25, "video_interval": 25, "segment_s": 0.5, "gop_s": 0.1}
    training = one.start(config=config, steps=100_000)
    training.wait_open()
    training.wait_steps(35)
    training.wait_until(lambda: training.progress.get("encoded") >= 33, "the second clip was begun")
    training.kill_everything()
    training.wait()
    later = {"fps": 30, "name_prefix": "later", "video_length": 5, "video_interval": 5, "render": "later"}
    one.start(config=later, backend={"snapshot": True}, steps=10).end_well()
    one.nothing_runs()


def _rewrite(folder: Path, chance: random.Random, change: Callable[[dict[str, Any]], object]) -> None:
    path = chance.choice([path for path in evidence.manifests(folder) if path.stat().st_size])
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _flip(path: Path, chance: random.Random, count: int) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(count if data else 0):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def _video(folder: Path, chance: random.Random) -> Path:
    return chance.choice([path for path in sorted([*folder.glob("*.mp4"), *folder.glob("*.part")]) if _is_plain(path)])


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _flipped_manifest(folder: Path, chance: random.Random) -> None:
    _flip(chance.choice(evidence.manifests(folder)), chance, 5)


def _cut_manifest(folder: Path, chance: random.Random) -> None:
    _cut(chance.choice(evidence.manifests(folder)), chance)


def _flipped_video(folder: Path, chance: random.Random) -> None:
    _flip(_video(folder, chance), chance, chance.choice([1, 20, 400]))


def _cut_video(folder: Path, chance: random.Random) -> None:
    _cut(_video(folder, chance), chance)


def _path_in_manifest(folder: Path, chance: random.Random) -> None:
    outside = str(folder.parent / "outside.mp4")
    name = chance.choice(
        ["../outside.mp4", outside, "..", "", "a\0b.mp4", "../outside.mp4.part", "x/../../outside.mp4"]
    )
    kind = chance.choice(["file", "open", "clip"])

    def change(manifest: dict[str, Any]) -> None:
        if kind == "clip":
            manifest["clip"] = name
        for entry in manifest["segments"] if kind != "clip" else []:
            entry["file"] = name
            if kind == "open":
                entry["open"] = True

    _rewrite(folder, chance, change)


def _numbers_in_manifest(folder: Path, chance: random.Random) -> None:
    number: object = chance.choice([0, -1, 2**53, 2**63, 10**400, 1e300, 1e-300, float("nan"), True, None, "7", [], {}])

    def change(manifest: dict[str, Any]) -> None:
        place = chance.choice([manifest, manifest["frames"], *manifest["segments"]])
        place[chance.choice(sorted(place))] = number

    _rewrite(folder, chance, change)


def _spans_in_manifest(folder: Path, chance: random.Random) -> None:
    span = chance.choice([[0, 2**53], [-(2**53), 2**53], [5, 1], ["a", "b"], [0], 3])
    count = chance.choice([1, 10_000])
    _rewrite(folder, chance, lambda manifest: manifest["frames"].update(missing_steps=[span] * count))


def _long_lists_in_manifest(folder: Path, chance: random.Random) -> None:
    _rewrite(folder, chance, lambda manifest: manifest.update(segments=manifest["segments"] * 50_000))


def _deep_manifest(folder: Path, chance: random.Random) -> None:
    (folder / "deep.json").write_text("[" * 200_000)
    chance.choice(evidence.manifests(folder)).write_text('{"a":' * 200_000)


def _huge_manifest(folder: Path, chance: random.Random) -> None:
    with open(chance.choice(evidence.manifests(folder)), "ab") as file:
        file.truncate(300 * 2**20)


def _huge_video(folder: Path, chance: random.Random) -> None:
    with open(_video(folder, chance), "ab") as file:
        file.truncate(20 * 2**30)


class _Bomb:
    """Makes a file outside of the folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._target = folder.parent / "exploded"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self._target}'",)


def _pickle(folder: Path, chance: random.Random) -> None:
    for path in (folder / "rl-video-step-900.json", folder / "session.json", chance.choice(evidence.manifests(folder))):
        path.write_bytes(pickle.dumps(_Bomb(folder)))


def _links(folder: Path, chance: random.Random) -> None:
    path = chance.choice([_video(folder, chance), *evidence.manifests(folder)])
    outside = folder.parent / ("outside.json" if path.suffix == ".json" else "outside.mp4")
    path.unlink()
    path.symlink_to(outside)


def _no_plain_files(folder: Path, chance: random.Random) -> None:
    make: Callable[[Path], object] = chance.choice([os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
    names = ["rl-video-step-900.json", "rl-video-step-900.mp4", "rl-video-step-900.000.mp4.part", "session.jsonl.part"]
    for name in chance.sample(names, 2):
        make(folder / name)
    victim = chance.choice([_video(folder, chance), *evidence.manifests(folder)])
    victim.unlink()
    make(victim)


def _label(folder: Path, chance: random.Random) -> None:
    """Rewrite what a video says of itself."""
    path = _video(folder, chance)
    change: dict[str, object] = chance.choice(
        [
            {"clip": "../outside"},
            {"clip": "x" * 5000},
            {"clip": "a\0b"},
            {"start_step": 10**30},
            {"start_step": -(10**30)},
            {"frame_stride": 10**30},
            {"frame_stride": 0},
            {"fps": "1/1000000000000000000000000"},
            {"fps": "1e400"},
            {"fps": "nan"},
            {"fps": []},
        ]
    )
    target = io.BytesIO()
    with av.open(io.BytesIO(path.read_bytes()), "r") as source, av.open(target, "w", format="mp4") as container:
        label = json.loads(source.metadata["comment"])
        container.metadata["comment"] = json.dumps({**label, **change})
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size and packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    path.write_bytes(target.getvalue())


def _damaged_snapshots(folder: Path, chance: random.Random) -> None:
    path = chance.choice(sorted(folder.glob("*.npz")))
    if chance.random() < 0.5:
        _cut(path, chance)
    else:
        _flip(path, chance, chance.choice([1, 20, 400]))


def _hostile_snapshots(folder: Path, chance: random.Random) -> None:
    """Rewrite what a file of snapshots holds: objects, a swollen member, settings that nobody would choose."""
    path = chance.choice(sorted(folder.glob("*.npz")))
    with np.load(path, allow_pickle=False) as members:
        held: dict[str, Any] = {name: members[name] for name in members.files}
    about = json.loads(str(held["about"]))
    kind = chance.choice(["objects", "swollen", "about", "huge model", "many steps"])
    if kind == "objects":
        held[chance.choice(sorted(held))] = np.array([_Bomb(folder)], object)
    elif kind == "about":
        change: dict[str, object] = chance.choice(
            [
                {"clip": "../outside"},
                {"kind": "../outside"},
                {"kind": "os.system"},
                {"fps": 1e300},
                {"frame_stride": 2**60},
                {"start_step": -(2**60)},
                {"settings": {**about["settings"], "width": 10**9, "height": 10**9}},
                {"encoding": {**about["encoding"], "codec": "rawvideo"}},
                {"encoding": {**about["encoding"], "output_dir": str(folder.parent)}},
            ]
        )
        held["about"] = np.array(json.dumps({**about, **change}))
    elif kind == "huge model":
        held["model/huge"] = np.zeros(50_000_000, np.uint8)
    elif kind == "many steps":
        held.update({f"steps/{step}": np.zeros(1, np.uint8) for step in range(10**9, 10**9 + 2_000)})
    else:
        held["steps/0"] = np.zeros(300_000_000, np.uint8)
    save = np.savez_compressed if kind == "swollen" else np.savez
    save(path, allow_pickle=True, **held)


def _strange_names(folder: Path, chance: random.Random) -> None:
    for name in (b"\xff\xfe.json", b"\xff\xfe.mp4", b"-rf.json", b"a\nb.json", b"\x1b[2Jx.json", b"[bold]x.mp4.part"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(chance.randbytes(50))
    # Also where it is taken for a clip's file: a printed name may not move the cursor.
    source = _video(folder, chance)
    (folder / "rl-video-\x1b[2J.mp4").write_bytes(source.read_bytes())


_HARMS: dict[str, Callable[[Path, random.Random], None]] = {
    harm.__name__.strip("_").replace("_", " "): harm
    for harm in (
        _flipped_manifest,
        _cut_manifest,
        _flipped_video,
        _cut_video,
        _path_in_manifest,
        _numbers_in_manifest,
        _spans_in_manifest,
        _long_lists_in_manifest,
        _deep_manifest,
        _huge_manifest,
        _huge_video,
        _pickle,
        _links,
        _no_plain_files,
        _label,
        _strange_names,
        _damaged_snapshots,
        _hostile_snapshots,
    )
}


def _commands() -> list[str]:
    first = [name for name in ("inspect", "gallery", "render", "recover") if has_command(name)]
    return [*first, "inspect", "recover"]


@row("Files of somebody else, cut, damaged, huge or hostile: each command says so, and stays in the folder.")
def hostile_files(one: Try) -> int:
    _record(one)
    (one.base / "outside.mp4").write_bytes(min(one.folder.glob("*.mp4")).read_bytes())
    (one.base / "outside.mp4.part").write_bytes(b"not yours")
    (one.base / "outside.json").write_bytes(evidence.manifests(one.folder)[0].read_bytes())
    harms = one.random.sample(sorted(_HARMS), 2)
    one.notes.append(" and ".join(harms))
    for harm in harms:
        try:
            _HARMS[harm](one.folder, one.random)
        except (OSError, ValueError, IndexError, KeyError, RecursionError, av.FFmpegError):
            one.notes.append(f"{harm} was not possible after the other")
    outside = {path.name: path.read_bytes() for path in one.base.iterdir() if path.is_file()}
    for command in _commands():
        ambush = {"role": "command", "act": "log"}
        status, output = one.command(command, str(one.folder), ambush=ambush, timeout_s=_TIMEOUT_S)
        require(status in (0, 1, 2, 3), f"{command} exits {status}: {output[-3000:]}")
        require("Traceback" not in output, f"{command} crashes: {output[-3000:]}")
        require("\x1b[2J" not in output, f"{command} prints control characters of a file's name")
    if has_command("view"):
        _view(one)
    after = {path.name: path.read_bytes() for path in one.base.iterdir() if path.is_file()}
    require(after == outside, f"files outside of the folder changed: {sorted(set(after) ^ set(outside))}")
    opened = (one.scratch / "opened.log").read_text(errors="replace").splitlines()
    stray = [line for line in opened if line.startswith("open ") and _leaves(line.partition(" ")[2], one)]
    require(not stray, f"opened outside of the folder: {stray[:5]}")
    return 0


def _view(one: Try) -> None:
    """Look at the folder in a browser, and ask for everything that it may have found there."""
    with viewed(one, {"role": "command", "act": "log"}) as port:
        for path in ("/", "/-/state"):
            require(ask(port, path)[0] in (200, 500), f"{path} is answered with {ask(port, path)[0]}")
        for entry in os.listdir(os.fsencode(one.folder)):
            name = quote(entry)
            clip = quote(entry.partition(b".")[0])
            for method, path in (("HEAD", f"/{name}"), ("GET", f"/-/card/{clip}"), ("GET", f"/-/poster/{clip}")):
                try:
                    ask(port, path, method=method)
                except (OSError, HTTPException) as exc:
                    raise evidence.Broken(f"view has no answer to {path}: {exc!r}") from exc


def _leaves(path: str, one: Try) -> bool:
    """Return whether an operation on `path` touched the try's things outside of the folder."""
    real = os.path.realpath(path)
    is_inside = real == str(one.folder) or real.startswith(f"{one.folder}/")
    return real.startswith(f"{one.base}/") and not is_inside and not real.startswith(f"{one.scratch}/")
