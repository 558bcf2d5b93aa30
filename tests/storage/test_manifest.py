from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepreel.clip import Clip, ClipState, DropCause, FrameCounts, Segment
from stepreel.errors import OutputError
from stepreel.storage import manifest
from stepreel.storage.manifest import delete_clip, is_file_of, prune_clips, read_manifest, reserve_name, write_manifest
from stepreel.storage.segment_label import SegmentLabel

SEGMENT = Segment(file="run-step-300.mp4", first_step=300, last_step=449, frames=148, nbytes=812345, duration_s=5.0)
CLIP = Clip(
    name="run-step-300",
    stream="default",
    backend="newton_gl",
    state=ClipState.INCOMPLETE,
    start_step=300,
    end_step=449,
    frame_stride=1,
    fps=30.0,
    width=1280,
    height=720,
    codec="libx264",
    frames=FrameCounts(requested=150, encoded=148, dropped={DropCause.QUEUE_FULL: 2}),
    missing_steps=((371, 372),),
    missing_by_cause={DropCause.QUEUE_FULL: ((371, 372),)},
    segments=(SEGMENT,),
)
TWICE_SHORT = replace(
    CLIP,
    frames=FrameCounts(requested=151, encoded=148, dropped={DropCause.QUEUE_FULL: 2, DropCause.RENDER_FAILED: 1}),
    missing_steps=((371, 373),),
    missing_by_cause={DropCause.QUEUE_FULL: ((371, 371), (373, 373)), DropCause.RENDER_FAILED: ((372, 372),)},
)
SCHEMA_1 = {
    "schema": 1,
    "clip": "run-step-300",
    "stream": "default",
    "backend": "newton_gl",
    "state": "incomplete",
    "start_step": 300,
    "end_step": 449,
    "frame_stride": 1,
    "fps": 30.0,
    "width": 1280,
    "height": 720,
    "codec": "libx264",
    "frames": {"requested": 150, "encoded": 148, "dropped": {"queue_full": 2}, "missing_steps": [[371, 372]]},
    "segments": [
        {
            "file": "run-step-300.mp4",
            "first_step": 300,
            "last_step": 449,
            "frames": 148,
            "bytes": 812345,
            "duration_s": 5.0,
        }
    ],
}


def test_schema_1_is_written_as_it_is_documented(tmp_path: Path) -> None:
    write_manifest(tmp_path, CLIP)
    assert json.loads((tmp_path / "run-step-300.json").read_bytes()) == SCHEMA_1
    assert os.listdir(tmp_path) == ["run-step-300.json"]


@pytest.mark.parametrize("clip", [CLIP, TWICE_SHORT])
def test_a_manifest_comes_back_as_it_was(tmp_path: Path, clip: Clip) -> None:
    write_manifest(tmp_path, clip)
    assert read_manifest(tmp_path / "run-step-300.json") == clip


def test_what_is_missing_why_is_told_where_there_are_several_causes(tmp_path: Path) -> None:
    write_manifest(tmp_path, TWICE_SHORT)
    frames = json.loads((tmp_path / "run-step-300.json").read_bytes())["frames"]
    assert frames["missing_by_cause"] == {"queue_full": [[371, 371], [373, 373]], "render_failed": [[372, 372]]}


def test_while_recording_only_what_is_decided_counts(tmp_path: Path) -> None:
    clip = replace(
        CLIP,
        state=ClipState.RECORDING,
        end_step=None,
        frames=FrameCounts(requested=200, encoded=170, dropped={DropCause.QUEUE_FULL: 2}, pending=28),
        segments=(replace(SEGMENT, file="run-step-300.000.mp4"),),
        open_segment="run-step-300.001.mp4.part",
    )
    write_manifest(tmp_path, clip)
    written = json.loads((tmp_path / "run-step-300.json").read_bytes())
    assert (written["frames"]["requested"], written["frames"]["encoded"]) == (150, 148)
    assert written["segments"][1] == {"file": "run-step-300.001.mp4.part", "first_step": 450, "open": True}
    read = read_manifest(tmp_path / "run-step-300.json")
    assert read.open_segment == "run-step-300.001.mp4.part"
    assert read.segments == clip.segments


def test_the_one_before_stays_where_the_new_one_can_not_be_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, CLIP)
    (tmp_path / "run-step-300.json.part").mkdir()
    with pytest.raises(OutputError, match=r"run-step-300\.json can't be written"):
        write_manifest(tmp_path, replace(CLIP, codec="mpeg4"))
    assert read_manifest(tmp_path / "run-step-300.json") == CLIP


def changed(*place: str | int, to: Any) -> bytes:
    data = json.loads(json.dumps(SCHEMA_1))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = to
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "no JSON"),
        (json.dumps(SCHEMA_1).encode()[:-40], "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 200_000, "object"),
        (b'{"other": ' + b"[" * 200_000, "nested too deep"),
        (b"[]", r"it: got \[\]; allowed: object"),
        (b"{}", "schema is missing"),
        (changed("schema", to=2), "schema: got 2"),
        (changed("schema", to=True), "schema"),
        (changed("clip", to="other"), "clip: got 'other'"),
        (changed("clip", to="../run-step-300"), "clip"),
        (changed("state", to="great"), "state: got 'great'; allowed: one of recording, complete"),
        (changed("state", to=["complete"]), "state"),
        (changed("start_step", to=1.5), "start_step"),
        (changed("start_step", to=10**400), "start_step"),
        (changed("end_step", to="449"), "end_step"),
        (changed("frame_stride", to=0), "frame_stride: got 0; allowed: int >= 1"),
        (changed("fps", to=-1), "fps"),
        (changed("fps", to=True), "fps"),
        (json.dumps({**SCHEMA_1, "fps": float("nan")}).encode(), "NaN"),
        (changed("width", to=0), "width"),
        (changed("codec", to="lib\nx264"), "codec"),
        (changed("stream", to="x" * 10_000), "stream"),
        (changed("frames", to=[]), "frames: got"),
        (changed("frames", "requested", to=-1), r"frames\.requested"),
        (
            changed("frames", "dropped", to={"bored": 1}),
            r"frames\.dropped: got \{'bored': 1\}; allowed: one of queue_full",
        ),
        (changed("frames", "dropped", to={"closed": 1, "queue_full": "2"}), r"frames\.dropped\.queue_full: got '2'"),
        (changed("frames", "missing_steps", to=[[3, 1]]), "missing_steps"),
        (changed("frames", "missing_steps", to=[[1, 2, 3]]), "missing_steps"),
        (changed("frames", "missing_steps", to=[[1, "2"]]), "missing_steps"),
        (changed("frames", "missing_by_cause", to=[]), r"frames\.missing_by_cause: got"),
        (changed("frames", "missing_by_cause", to={"bored": []}), "bored"),
        (changed("frames", "missing_by_cause", to={"closed": 1}), r"frames\.missing_by_cause\.closed"),
        (changed("frames", "missing_by_cause", to={"closed": [[3, 1]]}), r"frames\.missing_by_cause\.closed"),
        (changed("segments", to={}), "segments"),
        (changed("segments", 0, to=None), r"segments\[0\]"),
        (changed("segments", 0, "file", to="../run-step-300.mp4"), r"segments\[0\]\.file"),
        (changed("segments", 0, "file", to="/etc/run-step-300.mp4"), r"segments\[0\]\.file"),
        (changed("segments", 0, "file", to="theirs.mp4"), r"segments\[0\]\.file"),
        (changed("segments", 0, "file", to="run-step-300.mp4\n"), r"segments\[0\]\.file"),
        (changed("segments", 0, "bytes", to=None), r"segments\[0\]\.bytes: got None; allowed: int"),
        (
            changed("segments", to=[{"file": "run-step-300.mp4", "first_step": 1}]),
            r"segments\[0\]\.last_step is missing",
        ),
        (
            changed("segments", to=[{"file": "run-step-300.mp4.part", "first_step": 1, "open": True}] * 2),
            "not the last",
        ),
        (changed("segments", to=SCHEMA_1["segments"] * 2), "listed twice"),  # type: ignore[operator]
        (changed("snapshots", to={"file": "x.npz", "frames": 1, "bytes": 1}), r"snapshots\.file: got 'x\.npz'"),
        (changed("ended", to="killed\x1b[2J"), "ended"),
        (changed("ended", to=5), "ended: got 5"),
        (changed("segments", to=[{"file": "a/b.mp4.part", "first_step": 1, "open": True}]), "file"),
    ],
)
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path: Path, data: bytes, found: str) -> None:
    path = tmp_path / "run-step-300.json"
    path.write_bytes(data)
    with pytest.raises(OutputError, match=found) as caught:
        read_manifest(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600 + len(str(path))


def test_a_huge_manifest_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 100)
    write_manifest(tmp_path, CLIP)
    with pytest.raises(OutputError, match="more than 100 bytes"):
        read_manifest(tmp_path / "run-step-300.json")


def test_a_manifest_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be read"):
        read_manifest(tmp_path / "gone.json")
    with pytest.raises(OutputError, match="can't be read"):
        read_manifest(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(sorted(SCHEMA_1)), value=JSON)
def test_any_value_in_any_field_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = tmp_path_factory.mktemp("any") / "run-step-300.json"
    path.write_text(json.dumps({**SCHEMA_1, key: value}))
    try:
        outcome: object = read_manifest(path)
    except OutputError as exc:
        outcome = str(exc).splitlines()[1:]
    assert isinstance(outcome, Clip) or outcome == []


def test_a_free_name_is_taken_as_it_is(tmp_path: Path) -> None:
    assert reserve_name(tmp_path, "run-step-0") == "run-step-0"
    assert (tmp_path / "run-step-0.json").exists()


@pytest.mark.parametrize("suffix", [".json", ".mp4", ".mp4.part", ".000.mp4", ".012.mp4.part"])
def test_a_name_with_any_file_gets_a_number(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"run-step-0{suffix}").touch()
    (tmp_path / "run-step-0-2.mp4").touch()
    assert reserve_name(tmp_path, "run-step-0") == "run-step-0-3"


@pytest.mark.parametrize("record", ["session", "session-pace", "session-rank3", "session-rank3-pace"])
def test_the_names_of_a_session_are_no_names_of_clips(tmp_path: Path, record: str) -> None:
    assert reserve_name(tmp_path, record) == f"{record}-2"


def test_a_longer_name_does_not_take_a_shorter_one(tmp_path: Path) -> None:
    for file in ("run-step-01.mp4", "run-step-0.txt", "run-step-0.mp4.bak", "run-step-0.1.mp4"):
        (tmp_path / file).touch()
    assert reserve_name(tmp_path, "run-step-0") == "run-step-0"


def test_everybody_who_asks_at_once_gets_another_name(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        names = list(threads.map(lambda _: reserve_name(tmp_path, "run-step-0"), range(64)))
    assert sorted(names) == sorted({"run-step-0", *(f"run-step-0-{number}" for number in range(2, 65))})


def test_a_name_in_a_folder_that_is_gone_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be made"):
        reserve_name(tmp_path / "gone", "run-step-0")


def test_the_thousandth_clip_of_a_name_costs_a_listing_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("listdir", "open", "lstat", "stat"):
        counted(name)
    matches = Counter[str]()
    possible_owners = manifest._possible_owners

    def counted_owners(entry: str) -> tuple[str, ...]:
        matches[entry] += 1
        return possible_owners(entry)

    monkeypatch.setattr(manifest, "_possible_owners", counted_owners)
    names = [reserve_name(tmp_path, "run") for _ in range(1000)]
    monkeypatch.undo()
    assert names == ["run", *(f"run-{number}" for number in range(2, 1001))]
    assert calls == {"listdir": 1000, "open": 1000}
    assert matches["run.json"] == 999, "each entry is looked at once for each name that is asked for"


@pytest.mark.parametrize("file", ["run.json", "run.mp4", "run.000.mp4.part", "run.snapshots.npz", "run.json.part"])
def test_a_link_takes_a_name(tmp_path: Path, file: str) -> None:
    (tmp_path / file).symlink_to("nowhere")
    assert reserve_name(tmp_path, "run") == "run-2"
    assert (tmp_path / file).readlink() == Path("nowhere")


@pytest.fixture
def add_clip(tmp_path: Path) -> Callable[..., None]:
    """Writes a clip's manifest and an empty segment, newer than those before."""
    ages = iter(range(1, 1000))

    def add(name: str, state: ClipState = ClipState.COMPLETE, suffix: str = ".mp4") -> None:
        (tmp_path / f"{name}{suffix}").touch()
        segments = (replace(SEGMENT, file=f"{name}{suffix}"),) if suffix.endswith(".mp4") else ()
        write_manifest(tmp_path, replace(CLIP, name=name, state=state, segments=segments))
        age = next(ages)
        os.utime(tmp_path / f"{name}.json", (age, age))

    return add


def test_the_oldest_closed_clips_go_first(tmp_path: Path, add_clip: Callable[..., None]) -> None:
    for name in ("run-step-900", "run-step-0", "run-episode-3", "run-step-0-2"):
        add_clip(name)
    assert prune_clips(tmp_path, "run", 2) == ["run-step-900", "run-step-0"]
    assert sorted(os.listdir(tmp_path)) == [
        "run-episode-3.json",
        "run-episode-3.mp4",
        "run-step-0-2.json",
        "run-step-0-2.mp4",
    ]
    assert prune_clips(tmp_path, "run", 2) == []


def test_clips_with_the_names_of_stable_baselines3_go_as_others(tmp_path: Path, add_clip: Callable[..., None]) -> None:
    for name in ("run-step-0-to-step-200", "run-step-500-to-step-700", "run-step-500-to-step-700-2"):
        add_clip(name)
    assert prune_clips(tmp_path, "run", 1) == ["run-step-0-to-step-200", "run-step-500-to-step-700"]


def test_all_segments_of_a_clip_go_with_it(tmp_path: Path, add_clip: Callable[..., None]) -> None:
    add_clip("run-step-0", suffix=".000.mp4")
    (tmp_path / "run-step-0.001.mp4").touch()
    (tmp_path / "run-step-0.002.mp4.part").touch()
    assert prune_clips(tmp_path, "run", 0) == ["run-step-0"]
    assert os.listdir(tmp_path) == []


def test_what_is_recorded_or_belongs_to_others_stays(tmp_path: Path, add_clip: Callable[..., None]) -> None:
    add_clip("run-step-0", ClipState.RECORDING, ".000.mp4.part")
    add_clip("run-wrist-step-0")
    add_clip("other-step-0")
    add_clip("run-demo")
    (tmp_path / "run-step-5.json").write_text("{}")
    (tmp_path / "run-step-5.mp4").touch()
    (tmp_path / "run-step-6.mp4").touch()
    before = sorted(os.listdir(tmp_path))
    assert prune_clips(tmp_path, "run", 0) == []
    assert sorted(os.listdir(tmp_path)) == before


def test_clips_that_wait_for_a_decision_neither_count_nor_go(tmp_path: Path, add_clip: Callable[..., None]) -> None:
    for step in range(5):
        add_clip(f"run-step-{step}")
    assert prune_clips(tmp_path, "run", 2, undecided={"run-step-0", "run-step-4"}) == ["run-step-1"]
    assert prune_clips(tmp_path, "run", 2) == ["run-step-0", "run-step-2"]


def test_links_are_neither_followed_nor_deleted(tmp_path: Path, add_clip: Callable[..., None]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("video", "clip.json"):
        (outside / name).write_text("somebody's")
    add_clip("run-step-0")
    add_clip("run-step-1")
    (tmp_path / "run-step-0.001.mp4").symlink_to(outside / "video")
    (tmp_path / "run-step-1.json").unlink()
    (tmp_path / "run-step-1.json").symlink_to(outside / "clip.json")
    (tmp_path / "run-step-2.json").symlink_to(outside / "nowhere")
    assert prune_clips(tmp_path, "run", 0) == ["run-step-0"]
    for name in ("run-step-1", "run-step-2"):
        with pytest.raises(OutputError, match="links are not followed"):
            delete_clip(tmp_path, name)
        with pytest.raises(OutputError, match="links are not followed"):
            write_manifest(tmp_path, replace(CLIP, name=name))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "outside",
        "run-step-0.001.mp4",
        "run-step-1.json",
        "run-step-1.mp4",
        "run-step-2.json",
    ]
    assert sorted(path.read_text() for path in outside.iterdir()) == ["somebody's"] * 2


def put_segment(folder: Path, file: str, clip: str | None) -> None:
    label = SegmentLabel(clip=clip or "", start_step=0, frame_stride=1, fps=Fraction(30))
    (folder / file).write_bytes(b"ftyp" + (label.to_comment().encode() if clip else b"") + b"\0mdat")


STEMS = st.sampled_from(["a", "a.000", "a.001", "a.000.001", "ab", "a-2", "a.mp4", "a.000.mp4", "a{}", 'a"}'])
SUFFIXES = st.sampled_from([".mp4", ".000.mp4", ".001.mp4", ".001.mp4.part", ".000.mp4.part"])


@settings(deadline=None)
@given(
    names=st.lists(STEMS, min_size=1, max_size=5, unique=True),
    files=st.lists(st.tuples(st.integers(0, 4), SUFFIXES), max_size=8),
    doomed=st.integers(0, 4),
)
def test_no_file_of_another_clip_goes_with_a_clip(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], files: list[tuple[int, str]], doomed: int
) -> None:
    folder = tmp_path_factory.mktemp("alike")
    owners: dict[str, str] = {}
    for index, suffix in files:
        name = names[index % len(names)]
        owners.setdefault(f"{name}{suffix}", name)
    for file, name in owners.items():
        put_segment(folder, file, name)
    for name in names:
        (folder / f"{name}.json").touch()
        (folder / f"{name}.snapshots.npz").touch()
    delete_clip(folder, names[doomed % len(names)])
    gone = names.pop(doomed % len(names))
    kept = {file for file, name in owners.items() if name != gone}
    assert set(os.listdir(folder)) == kept | {f"{name}{end}" for name in names for end in (".json", ".snapshots.npz")}


def test_without_a_label_a_file_is_of_the_clip_that_lists_it(tmp_path: Path) -> None:
    listed = replace(SEGMENT, file="a.001.mp4")
    for file in ("a.001.mp4", "a.002.mp4"):
        put_segment(tmp_path, file, None)
    write_manifest(tmp_path, replace(CLIP, name="a", segments=(listed,)))
    for name in ("a.001", "a.002"):
        write_manifest(tmp_path, replace(CLIP, name=name, segments=()))
        delete_clip(tmp_path, name)
        assert sorted(os.listdir(tmp_path)) == ["a.001.mp4", "a.002.mp4", "a.json"]
    write_manifest(tmp_path, replace(CLIP, name="a.002", segments=()))
    delete_clip(tmp_path, "a")
    assert sorted(os.listdir(tmp_path)) == ["a.002.json", "a.002.mp4"], "whose it is can't be told"


def test_how_a_run_ended_is_told_where_it_did_not_close_the_clip(tmp_path: Path) -> None:
    clip = replace(CLIP, ended="killed at step 1234")
    write_manifest(tmp_path, clip)
    assert json.loads((tmp_path / "run-step-300.json").read_bytes())["ended"] == "killed at step 1234"
    assert read_manifest(tmp_path / "run-step-300.json") == clip


def test_a_prefix_is_no_pattern(tmp_path: Path, add_clip: Callable[..., None]) -> None:
    add_clip("axb-step-0")
    assert prune_clips(tmp_path, "a.b", 0) == []


@pytest.mark.parametrize(
    ("file", "belongs"),
    [
        ("a.json", True),
        ("a.mp4", True),
        ("a.mp4.part", True),
        ("a.000.mp4", True),
        ("a.1000.mp4.part", True),
        ("a.00.mp4", False),
        ("a.000.json", False),
        ("a-2.mp4", False),
        ("ab.mp4", False),
        ("a.mp4.part.draft", False),
        ("a.mp4\n", False),
    ],
)
def test_the_files_of_a_clip_are_told_by_their_names(file: str, belongs: bool) -> None:
    assert is_file_of("a", file) is belongs


def test_causes_of_so_many_ranges_that_a_manifest_could_not_be_read_again_are_counts_only(tmp_path: Path) -> None:
    spans = tuple((step, step) for step in range(1, 400_000, 2))
    clip = replace(
        TWICE_SHORT,
        start_step=0,
        end_step=400_000,
        missing_steps=spans,
        missing_by_cause={DropCause.QUEUE_FULL: spans[::2], DropCause.RENDER_FAILED: spans[1::2]},
    )
    write_manifest(tmp_path, clip)
    assert read_manifest(tmp_path / f"{clip.name}.json") == replace(clip, missing_by_cause={})


def test_a_long_clip_that_lacks_every_second_frame_has_a_manifest_that_can_be_read(tmp_path: Path) -> None:
    steps = 200_000
    clip = replace(
        CLIP,
        start_step=0,
        end_step=steps - 1,
        frame_stride=1,
        missing_steps=tuple((step, step) for step in range(1, steps, 2)),
    )
    write_manifest(tmp_path, clip)
    path = tmp_path / f"{clip.name}.json"
    assert read_manifest(path).missing_steps == clip.missing_steps
    assert 3 * path.stat().st_size < manifest.MAX_MANIFEST_BYTES


def test_a_draft_that_lies_there_is_replaced_and_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("somebody's")
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "run-step-300.json.part").symlink_to(outside)
    write_manifest(folder, CLIP)
    assert outside.read_text() == "somebody's"
    assert read_manifest(folder / "run-step-300.json").frames == CLIP.frames
    (folder / "run-step-300.json.part").write_text("of a killed run")
    write_manifest(folder, CLIP)
    assert [path.name for path in folder.iterdir()] == ["run-step-300.json"]
