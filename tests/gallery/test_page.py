"""What a page says of a folder, whoever wrote what lies in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from stepreel.clip import Clip, ClipState, DropCause
from stepreel.errors import OutputError
from stepreel.gallery import folder as folder_module
from stepreel.gallery.folder import FolderIndex, FolderReader
from stepreel.gallery.page import to_page
from stepreel.gallery.plots import StepTimes, run_plot, step_time_line, timeline
from stepreel.gallery.text import attribute, duration, link, number, quantity, size
from stepreel.gallery.writing import PAGE_FILE, write_gallery
from stepreel.storage.folder_lock import LOCK_FILE, FolderLock, is_recorded_into
from stepreel.storage.manifest import read_manifest
from stepreel.storage.step_counts import STEP_COUNTS_FILE, StepCounts

from .conftest import manifest_of

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Page(HTMLParser):
    """The elements and texts of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def page_of(index: FolderIndex) -> Page:
    return Page(to_page(index, lambda found: None, is_live=False))


@pytest.fixture
def videos(tmp_path: Path, recorded: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "videos"))


def test_a_gallery_shows_every_clip_with_pictures_and_a_link_to_its_first_file(videos: Path) -> None:
    gallery = write_gallery(videos)
    assert gallery.pictured == 3
    page = Page((videos / PAGE_FILE).read_text())
    links = [found["href"] for found in page.all("a", class_="play")]
    assert links == [f"./rl-video-step-{step}.000.mp4" for step in (200, 100, 0)]
    assert all((videos / href).is_file() for href in links)
    assert all(found["src"].startswith("data:image/jpeg;base64,") for found in page.all("img"))
    assert len(page.all("img", class_="strip")) == len(page.all("img", class_="poster")) == 3


def test_a_gallery_asks_for_nothing_beyond_its_folder(videos: Path) -> None:
    write_gallery(videos)
    text = (videos / PAGE_FILE).read_text()
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href", "poster", "action", "srcset"):
            value = attributes.get(name, "./")
            assert value.startswith(("./", "#", "data:")), f"<{tag} {name}={value[:60]}>"
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_what_was_dropped_is_told_by_cause_and_place(videos: Path) -> None:
    page = page_of(FolderReader(videos).read())
    (described,) = [one["aria-label"] for one in page.all("svg", class_="timeline") if "12" in one["aria-label"]]
    assert described == "Steps 100 to 144, 2 segments, 12 steps missing (12 queue_full)"
    marks = page.all("rect", class_="missing queue_full")
    places = [float(mark[side]) for mark in marks if mark["height"] == "16" for side in ("x", "width")]
    assert places == pytest.approx([1000 * steps / 45 for steps in (10, 10, 30, 2)], abs=5)
    assert "12 queue_full" in page.text


def test_every_cause_and_state_has_a_colour() -> None:
    css = files("stepreel.gallery").joinpath("page.css").read_text()
    assert [cause for cause in DropCause if f".{cause.value} {{ --key: var(--{cause.value}); }}" not in css] == []
    assert [state for state in ClipState if f".{state.value} {{ color: " not in css] == []


def test_a_card_tells_how_a_run_ended_that_did_not_close_its_clip(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(manifest_of("a", ended="killed at <step> 31"))
    assert "killed at <step> 31" in page_of(FolderReader(tmp_path).read()).text


def test_each_of_several_causes_is_marked_where_it_was(tmp_path: Path) -> None:
    frames = {
        "requested": 10,
        "encoded": 5,
        "dropped": {"queue_full": 3, "disk_full": 2},
        "missing_steps": [[2, 6]],
        "missing_by_cause": {"queue_full": [[2, 3], [6, 6]], "disk_full": [[4, 5]]},
    }
    (tmp_path / "a.json").write_text(manifest_of("a", frames=frames, state="incomplete"))
    page = page_of(FolderReader(tmp_path).read())
    marks = [one for one in page.all("rect", height="16") if "missing" in one["class"]]
    assert [(one["class"], float(one["x"]), float(one["width"])) for one in marks] == [
        ("missing queue_full", 200, 200),
        ("missing disk_full", 400, 200),
        ("missing queue_full", 600, 100),
    ]
    assert "several causes" not in page.text


def test_what_is_too_near_to_be_told_apart_is_one_mark_of_several_causes(tmp_path: Path) -> None:
    frames = {
        "requested": 100_000,
        "encoded": 99_990,
        "dropped": {"queue_full": 5, "disk_full": 5},
        "missing_steps": [[50_000, 50_009]],
        "missing_by_cause": {
            "queue_full": [[step, step] for step in range(50_000, 50_010, 2)],
            "disk_full": [[step, step] for step in range(50_001, 50_010, 2)],
        },
    }
    (tmp_path / "a.json").write_text(manifest_of("a", frames=frames, state="incomplete", end_step=99_999))
    page = page_of(FolderReader(tmp_path).read())
    assert [one["class"] for one in page.all("rect", height="16")] == ["missing mixed", "playhead"]
    assert "several causes" in page.text


def test_several_causes_of_which_nobody_knows_the_places_share_one_mark(tmp_path: Path) -> None:
    frames = {
        "requested": 10,
        "encoded": 5,
        "dropped": {"queue_full": 3, "disk_full": 2},
        "missing_steps": [[2, 6]],
    }
    (tmp_path / "a.json").write_text(manifest_of("a", frames=frames, state="incomplete"))
    page = page_of(FolderReader(tmp_path).read())
    assert len(page.all("rect", class_="missing mixed")) == 1
    assert "3 queue_full" in page.text
    assert "2 disk_full" in page.text


@pytest.mark.parametrize(
    ("folder", "title"),
    [("demo", "demo"), ("run 1/videos/train", "run 1/videos/train"), ("logs/run2/videos", "run2/videos")],
)
def test_a_page_is_called_after_its_run(tmp_path: Path, folder: str, title: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    text = to_page(FolderReader(tmp_path / folder).read(), lambda found: None, is_live=False)
    assert f"<h1>{title}</h1>" in text
    assert f"<title>{title} " in text
    assert FolderReader(Path("/")).read().title == "clips"


def test_hostile_names_and_values_are_text(tmp_path: Path) -> None:
    name = "x' onmouseover=alert(1) <b>&amp;<script>alert(2)<"
    (tmp_path / f"{name}.json").write_text(manifest_of(name, stream=EVIL[:200], backend=EVIL, codec=EVIL))
    (tmp_path / f"{name}.mp4").write_bytes(b"none")
    session = {
        "streams": {EVIL: {"backend": EVIL}, "b": 3},
        "codec": EVIL,
        EVIL: {EVIL: [EVIL]},
        "started_at": EVIL,
        "ended_at": EVIL,
    }
    (tmp_path / "session.json").write_text(json.dumps(session))
    line = {"event": EVIL, "level": "warning", "timestamp": EVIL, EVIL: EVIL, "a": "\x1b[31m\u202e"}
    (tmp_path / "session.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / f"{EVIL.replace('/', '')}.json").write_text("{")
    page = page_of(FolderReader(tmp_path).read())
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert page.all("img") == page.all("b") == []
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    (card,) = page.all("article")
    assert card["aria-label"] == name
    (play,) = page.all("a", class_="play")
    assert play["href"] == link(f"{name}.mp4")
    assert json.loads(card["data-clip"])["files"] == [[link(f"{name}.mp4"), 0, 0.3]]
    assert EVIL in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-30", "", "1e9", 5, None, ["2026"]]
)
def test_a_time_that_is_none_is_passed_over(tmp_path: Path, time: object) -> None:
    (tmp_path / "a.json").write_text(manifest_of("a"))
    (tmp_path / "session.json").write_text(json.dumps({"started_at": time, "ended_at": time, "codec": "libx264"}))
    (tmp_path / "session.jsonl").write_text(json.dumps({"event": "e", "level": "warning", "timestamp": time}) + "\n")
    (tmp_path / STEP_COUNTS_FILE).write_text(
        json.dumps({"schema": 1, "started_at": str(time), "samples": [[0, 0], [1, 150], [2, 250]]})
    )
    page = page_of(FolderReader(tmp_path).read())
    assert "libx264" in page.text
    assert "started" not in page.text.partition("Configuration")[0]
    assert len(page.all("article")) == 1


def leave_session(folder: Path, stem: str, written_s: float) -> None:
    (folder / f"{stem}.json").write_text(json.dumps({"codec": f"that of {stem}"}))
    lines = [
        json.dumps({"event": stem, "level": "warning", "timestamp": f"2026-01-01T00:00:0{second}+00:00"})
        for second in range(2)
    ]
    (folder / f"{stem}.jsonl").write_text("\n".join(lines) + "\n")
    os.utime(folder / f"{stem}.json", (written_s, written_s))


def test_of_several_ranks_the_first_is_shown_with_the_warnings_of_all(tmp_path: Path) -> None:
    leave_session(tmp_path, "session", 1e9)
    leave_session(tmp_path, "session-rank1", 2e9)
    leave_session(tmp_path, "session-rank0", 2e9 - 1)
    (tmp_path / "session-rank0-pace.json").write_text(
        json.dumps({"schema": 1, "started_at": "", "samples": [[0, 0], [1, 7]]})
    )
    index = FolderReader(tmp_path).read()
    assert index.session == {"codec": "that of session-rank0"}
    assert sorted(event["event"] for event in index.warnings) == ["session-rank0"] * 2 + ["session-rank1"] * 2
    assert [event["timestamp"][18] for event in index.warnings] == ["1", "1", "0", "0"]
    assert index.step_counts is not None
    assert index.step_counts.steps == (0, 7)
    assert not index.unreadable
    page_of(index)


def test_a_later_run_without_ranks_is_shown_alone(tmp_path: Path) -> None:
    leave_session(tmp_path, "session-rank0", 1e9)
    leave_session(tmp_path, "session", 2e9)
    index = FolderReader(tmp_path).read()
    assert index.session == {"codec": "that of session"}
    assert [event["event"] for event in index.warnings] == ["session"] * 2


def test_what_is_nested_deep_is_left_out(tmp_path: Path) -> None:
    for depth in (100, 900, 20_000):
        (tmp_path / "session.json").write_text('{"a":' * depth + "1" + "}" * depth)
        line = '{"event": "e", "level": "warning", "a": ' + "[" * depth + "]" * depth + "}"
        (tmp_path / "session.jsonl").write_text(line + "\n")
        index = FolderReader(tmp_path).read()
        assert index.warnings == ()
        assert index.unreadable[0].startswith("session.json is no JSON")
        page_of(index)


def test_a_page_cannot_be_ended_by_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "session.json").write_text(json.dumps({"a": "</script></style></html>\ud800"}))
    text = to_page(FolderReader(tmp_path).read(), lambda found: None, is_live=False)
    assert text.count("</script>") == text.count("</style>") == text.count("</html>") == 1
    assert write_gallery(tmp_path).path.read_text(encoding="utf-8").endswith("</html>\n")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "[" * 100_000, '{"schema": 1}', "\x00", '{"schema": 1e999}', manifest_of("other")],
    ids=lambda text: text[:12],
)
def test_a_damaged_manifest_is_listed_and_the_others_are_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "good.json").write_text(manifest_of("good"))
    (tmp_path / "bad.json").write_text(text)
    index = FolderReader(tmp_path).read()
    assert [found.clip.name for found in index.clips] == ["good"]
    (line,) = index.unreadable
    assert line.startswith("bad.json")


def test_a_huge_manifest_is_listed_and_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**33)
    for name in ("session.json", STEP_COUNTS_FILE):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**33)
    (tmp_path / "good.json").write_text(manifest_of("good"))
    index = FolderReader(tmp_path).read()
    assert [found.clip.name for found in index.clips] == ["good"]
    assert sorted(line.split(":")[0].split(" ")[0] for line in index.unreadable) == [
        "huge.json",
        STEP_COUNTS_FILE,
        "session.json",
    ]


def test_many_large_manifests_are_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_MOST_MANIFESTS_NBYTES", 3000)
    monkeypatch.setattr(folder_module, "_MOST_LINES", 2)
    for number_ in range(12):
        (tmp_path / f"c{number_}.json").write_text(manifest_of(f"c{number_}"))
    index = FolderReader(tmp_path).read()
    assert 0 < len(index.clips) < 9
    assert len(index.unreadable) == 3
    assert index.unreadable[-1] == f"and {12 - len(index.clips) - 2} more"


def test_more_clips_than_a_page_holds_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "MOST_CLIPS", 2)
    for number_ in range(5):
        (tmp_path / f"c{number_}.json").write_text(manifest_of(f"c{number_}"))
    index = FolderReader(tmp_path).read()
    assert (len(index.clips), index.left_out) == (2, 3)
    assert "3 older clips not shown" in page_of(index).text


def test_links_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.json").write_text(manifest_of("a"))
    (elsewhere / "a.mp4").write_text("a video")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.json").symlink_to(elsewhere / "a.json")
    (videos / "session.json").symlink_to(elsewhere / "a.json")
    os.mkfifo(videos / "p.json")
    os.mkfifo(videos / "session.jsonl")
    (videos / "d.json").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(videos / "s.json"))
        (videos / "b.json").write_text(manifest_of("b"))
        (videos / "b.mp4").symlink_to(elsewhere / "a.mp4")
        index = FolderReader(videos).read()
    (found,) = index.clips
    assert (found.clip.name, found.files) == ("b", ())
    assert {line.split(" ")[0] for line in index.unreadable} >= {"a.json", "session.json", "session.jsonl"}
    assert "no video" in page_of(index).text


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": {"requested": 1, "encoded": 1, "dropped": {}, "missing_steps": [[-(2**53), 2**53]]}},
        {"start_step": -(2**53), "end_step": 2**53},
        {"start_step": 2**53, "end_step": -(2**53)},
        {"frame_stride": 2**53, "fps": 1e-300},
        {"width": 2**53, "height": 1},
        {"width": 1, "height": 2**53},
        {"fps": 2**53, "end_step": None, "segments": []},
    ],
    ids=str,
)
def test_absurd_numbers_are_drawn_inside_of_the_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(manifest_of("a", **changes))
    page = page_of(FolderReader(tmp_path).read())
    for mark in page.all("rect"):
        left, width = float(mark.get("x", 0)), float(mark["width"])
        assert -10 <= left <= 1000
        assert 0 <= width <= 1000
    for picture in page.all("svg", class_="poster"):
        assert int(picture["width"]) <= 1000


def test_a_million_missing_steps_are_few_marks(tmp_path: Path) -> None:
    spans = [[step, step] for step in range(0, 200_000, 2)]
    frames = {"requested": 200_000, "encoded": 100_000, "dropped": {"queue_full": 100_000}, "missing_steps": spans}
    (tmp_path / "a.json").write_text(manifest_of("a", frames=frames, end_step=199_999))
    clip = read_manifest(tmp_path / "a.json")
    assert timeline(clip).count("<rect") < 410


def test_a_clip_that_is_recorded_and_one_that_was_left_open_are_told_apart(videos: Path) -> None:
    (videos / "open.json").write_text(
        manifest_of(
            "open",
            state=ClipState.RECORDING.value,
            segments=[{"file": "open.000.mp4.part", "first_step": 0, "open": True}],
            end_step=None,
        )
    )
    shutil.copy(videos / "rl-video-step-0.000.mp4", videos / "open.000.mp4.part")
    assert "left open" in page_of(FolderReader(videos).read()).text
    lock = FolderLock.share(videos)
    try:
        page = page_of(FolderReader(videos).read())
    finally:
        lock.release()
    assert "left open" not in page.text
    assert "./open.000.mp4.part" in [found["href"] for found in page.all("a", class_="play")]


def test_looking_whether_a_folder_is_recorded_into_disturbs_nobody(tmp_path: Path) -> None:
    assert not is_recorded_into(tmp_path)
    assert list(tmp_path.iterdir()) == []
    lock = FolderLock.share(tmp_path)
    assert is_recorded_into(tmp_path)
    lock.release()
    (tmp_path / LOCK_FILE).write_text("")
    assert not is_recorded_into(tmp_path)
    FolderLock.share(tmp_path, timeout_s=0).release()


def test_a_manifest_is_parsed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count(path: Path) -> Clip:
        read.append(path.name)
        return read_manifest(path)

    monkeypatch.setattr(folder_module, "read_manifest", count)
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(manifest_of(name))
    reader = FolderReader(tmp_path)
    reader.read()
    reader.read()
    (tmp_path / "b.json").write_text(manifest_of("b", fps=10.0, backend="other"))
    reader.read()
    assert sorted(read) == ["a.json", "b.json", "b.json"]


def test_an_index_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / PAGE_FILE).write_text("<h1>mine</h1>")
    with pytest.raises(OutputError, match="was not written by stepreel"):
        write_gallery(tmp_path)
    assert (tmp_path / PAGE_FILE).read_text() == "<h1>mine</h1>"
    (tmp_path / PAGE_FILE).unlink()
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / PAGE_FILE).symlink_to(target)
    with pytest.raises(OutputError, match="link"):
        write_gallery(tmp_path)
    assert target.read_text() == ""


def test_a_gallery_is_replaced_by_a_later_one(tmp_path: Path) -> None:
    write_gallery(tmp_path)
    (tmp_path / "a.json").write_text(manifest_of("a"))
    write_gallery(tmp_path)
    assert len(Page((tmp_path / PAGE_FILE).read_text()).all("article")) == 1
    assert sorted(os.listdir(tmp_path)) == ["a.json", PAGE_FILE]


def test_pictures_are_left_out_where_there_is_no_time_for_them(videos: Path) -> None:
    gallery = write_gallery(videos, pictures_s=0)
    assert gallery.pictured == 0
    page = Page((videos / PAGE_FILE).read_text())
    assert len(page.all("a", class_="play")) == 3
    assert page.all("img") == []


def test_files_that_are_no_videos_have_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(manifest_of("a"))
    (tmp_path / "a.mp4").write_bytes(os.urandom(5000))
    assert write_gallery(tmp_path).pictured == 0


def counts(*samples: tuple[float, int]) -> StepCounts:
    seconds, steps = zip(*samples, strict=True)
    return StepCounts(started_at="2026-01-01T00:00:00+00:00", seconds=seconds, steps=steps)


def test_step_times_are_means_between_samples_and_waiting_is_none() -> None:
    times = StepTimes.of(counts((0.0, 0), (1.0, 100), (2.0, 100), (3.0, 300), (3.0, 301)))
    assert list(times.seconds) == pytest.approx([0.01, 0.005])
    assert (times.starts, times.ends) == ((0, 100), (100, 300))


def test_a_time_in_which_stepping_began_or_ended_is_no_step_time() -> None:
    run = counts((0, 0), (1, 0), (2, 10), (3, 110), (4, 210), (5, 220), (6, 220), (7, 230), (8, 330), (9, 331))
    times = StepTimes.of(run)
    assert list(times.seconds) == pytest.approx([0.01] * 3)
    assert (times.starts, times.ends) == ((10, 110, 230), (110, 210, 330))
    assert (times.first, times.last) == (0, 331)


def test_steps_slower_than_samples_take_as_long_as_they_took() -> None:
    times = StepTimes.of(counts(*((quarter / 4, quarter // 4) for quarter in range(20))))
    assert list(times.seconds) == pytest.approx([1.0] * 3)


def test_step_times_with_and_without_a_clip_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(manifest_of("a", start_step=100, end_step=199, segments=[]))
    clip = read_manifest(tmp_path / "a.json")
    times = StepTimes.of(counts((0, 0), (0.1, 10), (1, 100), (3, 200), (4, 300), (5, 400)))
    assert step_time_line(times, [clip]) == "median 10\u202fms between clips, 20\u202fms while a clip is captured"
    assert step_time_line(times, []) == "median 10\u202fms between clips"


def test_a_run_is_plotted_with_its_clips_marked(tmp_path: Path) -> None:
    (tmp_path / "a b.json").write_text(manifest_of("a b", start_step=100, end_step=199, segments=[]))
    times = StepTimes.of(counts((0, 0), (0.1, 0), (1, 100), (3, 200), (4, 300)))
    plot = Page(run_plot(times, [read_manifest(tmp_path / "a b.json")]))
    (band,) = plot.all("rect", class_="band")
    assert float(band["x"]) == pytest.approx(1000 / 3, abs=1)
    assert float(band["width"]) == pytest.approx(1000 / 3, abs=1)
    assert plot.all("a")[0]["href"] == "#clip-a%20b"
    assert run_plot(StepTimes.of(counts((0, 0))), []) == ""


def test_a_clip_that_is_still_captured_reaches_to_where_the_run_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(manifest_of("a", start_step=100, end_step=None, segments=[], state="recording"))
    clip = read_manifest(tmp_path / "a.json")
    times = StepTimes.of(counts((0, 0), (0.1, 10), (1, 100), (3, 200), (5, 300), (6, 400)))
    assert step_time_line(times, [clip]) == "median 10\u202fms between clips, 20\u202fms while a clip is captured"
    (band,) = Page(run_plot(times, [clip])).all("rect", class_="band")
    assert (float(band["x"]), float(band["width"])) == (250, 750)


def test_a_wide_range_of_step_times_gets_a_logarithmic_axis() -> None:
    times = StepTimes.of(counts((0, 0), (0.001, 1), (1, 2), (1.001, 3), (1.002, 4)))
    labels = Page(run_plot(times, [])).text
    assert "1\u202fms" in labels
    assert "100\u202fms" in labels


def test_clips_of_an_earlier_run_are_not_marked_on_the_plot(videos: Path) -> None:
    for step in (0, 100):
        os.utime(videos / f"rl-video-step-{step}.json", (1e9, 1e9))
    (videos / STEP_COUNTS_FILE).write_text(
        json.dumps({"schema": 1, "started_at": "2020-01-01T00:00:00+00:00", "samples": [[0, 0], [1, 150], [2, 250]]})
    )
    page = page_of(FolderReader(videos).read())
    assert len(page.all("rect", class_="band")) == 1


def test_values_are_shown_for_people() -> None:
    assert number(-1234567) == "\u22121\u202f234\u202f567"
    assert [size(n) for n in (0, 999, 1000, 12_345, 2**40)] == [
        "0\u00a0bytes",
        "999\u00a0bytes",
        "1.0\u00a0kB",
        "12\u00a0kB",
        "1.1\u00a0TB",
    ]
    assert [duration(s) for s in (0.04, 9.96, 59.6, 3601)] == ["0.0\u202fs", "10.0\u202fs", "1:00", "1:00:01"]
    assert duration(1e300)
    assert [quantity(s) for s in (2.0, 0.0051, 4e-5)] == ["2\u202fs", "5.1\u202fms", "40\u202f\u00b5s"]
    assert len(attribute("x" * 10_000)) == 300
    assert attribute("<&\"'>\x00") == "&lt;&amp;&quot;&#x27;&gt;\\x00"
    assert re.fullmatch(r"[\w./%-]+", link("a b?#\u00e9'\"<.mp4"), re.ASCII)
