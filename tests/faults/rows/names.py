"""Names that lead out of the folder."""

from __future__ import annotations

from .. import evidence
from ..evidence import require
from ..harness import Try
from ..matrix import row

_HOSTILE = [
    "..",
    "../outside",
    "a/../../outside",
    "/tmp/outside",
    "a/b",
    "a\\b",
    "nul\0byte",
    "x" * 300,
    "x" * 100,
    "\N{ROBOT FACE}" * 45,
    "\N{ROBOT FACE}" * 46,
    "\u00e9t\u00e9 \u673a\u5668\u4eba",
    "e\u0301",
    "-rf",
    "--help",
    ".hidden",
    "new\nline",
    "bell\a",
    "\u202eright to left",
    "\ud800",
    " ",
    "",
    "%s %n",
    "a.000.mp4",
    "a.mp4.part",
    "session",
    "*?[]",
    "con: $(reboot) `id` ;&|<>\"'",
]


@row("A hostile prefix or name of a clip is refused with a message, or its files lie inside of the folder.", tries=1)
def hostile_names(one: Try) -> int:
    before = evidence.fingerprint(one.base)
    training = one.start("names", hostile=_HOSTILE)
    training.end_well(120.0)
    one.nothing_runs()
    (told,) = training.diary.events("outcomes")
    for case, outcome in told["outcomes"].items():
        number, kind = case.split()
        is_fine = outcome == "recorded" or outcome.startswith("ConfigurationError: ")
        require(is_fine, f"{kind} {_HOSTILE[int(number)]!a}: {outcome}")
    mine = ("videos/", "scratch/")
    stray = [path for path in evidence.fingerprint(one.base) if path not in before and not path.startswith(mine)]
    require(not stray, f"written outside of the folder: {stray}")
    require(all(path.is_file() for path in one.folder.iterdir()), "there are folders in the output folder")
    clips = evidence.check_done(one.folder)
    recorded = sum(outcome == "recorded" for outcome in told["outcomes"].values())
    require(len(clips) == recorded, f"{recorded} recorded, {len(clips)} clips")
    one.recover_nothing()
    return 0


@row("An output folder that is a link is written where it leads, and stays a link.", tries=1)
def folder_is_a_link(one: Try) -> int:
    real = one.base / "elsewhere"
    real.mkdir()
    one.folder.symlink_to(real)
    training = one.start(config={"fps": 30, "video_length": 20, "video_interval": 20, "segment_s": 0.2}, steps=60)
    training.end_well()
    one.nothing_runs()
    require(one.folder.is_symlink(), "the link was replaced")
    one.accounts(training, evidence.check_done(real), steps=60)
    one.recover_nothing()
    return 0


@row(
    "Links under names that the recorder uses are neither followed nor replaced; clips are recorded under other names."
)
def links_under_its_names(one: Try) -> int:
    outside = one.base / "outside"
    outside.mkdir()
    one.folder.mkdir()
    clip = "rl-video-step-20"
    names = ["session.json", "session.jsonl", "session-pace.json", "rl-video-step-0.json", f"{clip}.snapshots.npz.part"]
    names += [f"{clip}.snapshots.npz", f"{clip}.mp4.part", "rl-video-step-40.mp4"]
    for name in names:
        target = outside / name
        if one.random.random() < 0.5:
            target.write_text("somebody else's")
        (one.folder / name).symlink_to(target)
    before = evidence.fingerprint(outside)
    backend = {"snapshot": True, "render_delay_s": 0.02}
    training = one.start(config={"fps": 30, "video_length": 20, "video_interval": 20}, backend=backend, steps=60)
    status = training.wait()
    one.nothing_runs()
    require(evidence.fingerprint(outside) == before, f"changed outside: {sorted(evidence.fingerprint(outside))}")
    replaced = [name for name in names if not (one.folder / name).is_symlink()]
    require(not replaced, f"links were replaced: {replaced}")
    require(status == 0, f"the training ended with status {status}: {training.output[-2000:]}")
    clips = [clip for clip in evidence.look(one.folder) if clip.closed]
    for found in clips:
        evidence.check_clip(found, one.folder)
    summary = training.summary()
    one.notes.append(f"{[found.name for found in clips]}, dropped {summary['dropped']}")
    require(evidence.shown(clips) == set(range(60)), f"not all was recorded: {summary}")
    return 0
