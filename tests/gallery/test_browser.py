"""The page in a real browser: clips play, keys work, nothing hostile runs, and a run can be followed."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.gallery.server import GalleryServer
from stepreel.gallery.writing import write_gallery

from .browser import Browser, open_browser
from .conftest import manifest_of

pytestmark = pytest.mark.timeout(180)  # A browser on a busy machine takes its time to start.

VIDEO = "document.querySelector('video')"
PIXELS = f"""(() => {{
  const video = {VIDEO}, canvas = document.createElement('canvas');
  canvas.width = 32; canvas.height = 18;
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0, 32, 18);
  return Array.from(context.getImageData(0, 0, 32, 18).data);
}})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page that stands by itself, on a disk."""
    folder = shutil.copytree(recorded, tmp_path_factory.mktemp("page") / "run one #1")
    return write_gallery(Path(folder)).path.as_uri()


def serve(folder: Path) -> tuple[GalleryServer, threading.Thread]:
    server = GalleryServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    return server, thread


@pytest.fixture
def stop() -> Iterator[list[tuple[GalleryServer, threading.Thread]]]:
    """Servers that are to be ended with the test."""
    started: list[tuple[GalleryServer, threading.Thread]] = []
    yield started
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def focus(browser: Browser, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(40):
        browser.press("Tab")
        if browser.run(f"document.activeElement.matches({json.dumps(selector)})"):
            return
    pytest.fail(f"Tab does not come to {selector}")


def test_a_clip_really_plays(browser: Browser, recorded: Path, stop: list[Any]) -> None:
    stop.append(serve(recorded))
    browser.show(stop[0][0].url)
    assert browser.run("document.querySelectorAll('video').length") == 0
    browser.run("document.querySelector('#clip-rl-video-step-0 a.play').click()")
    browser.wait_for(f"{VIDEO}.currentTime > 0.3")
    first = browser.run(PIXELS)
    assert max(first) > 60
    assert browser.run(f"[{VIDEO}.videoWidth, {VIDEO}.videoHeight]") == [320, 180]
    browser.wait_for(f"{VIDEO}.dataset.file.endsWith('.001.mp4') && {VIDEO}.currentTime > 0.1")
    assert browser.run(PIXELS) != first
    browser.wait_for("/^step (3|4)/.test(document.querySelector('#clip-rl-video-step-0 .now').textContent)")
    assert browser.complaints() == []


def test_a_page_on_a_disk_plays_its_clips_and_asks_nobody(browser: Browser, page: str) -> None:
    browser.show(page)
    browser.run("document.querySelector('a.play').click()")
    browser.wait_for(f"{VIDEO}.currentTime > 0.3")
    folder = page.rpartition("/")[0]
    assert all(url.startswith(folder) for url in browser.requests())
    assert browser.complaints() == []


def test_a_click_on_a_timeline_goes_there(browser: Browser, recorded: Path, stop: list[Any]) -> None:
    stop.append(serve(recorded))
    browser.show(stop[0][0].url)
    browser.run(
        """(() => {
          const line = document.querySelector('#clip-rl-video-step-0 .timeline');
          const box = line.getBoundingClientRect();
          const place = { bubbles: true, clientX: box.left + 0.25 * box.width, clientY: box.top + 5 };
          line.dispatchEvent(new MouseEvent('click', place));
        })()"""
    )
    browser.wait_for(f"{VIDEO}.currentTime >= 11 / 30")
    assert browser.requests()[-1].endswith("/rl-video-step-0.000.mp4")


def test_it_can_be_used_with_keys_alone(browser: Browser, page: str) -> None:
    browser.show(page)
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == "Skip to the clips"
    focus(browser, "a.play")
    style = "getComputedStyle(document.activeElement)"
    assert browser.run(f"{style}.outlineStyle !== 'none' && parseFloat({style}.outlineWidth) >= 2")
    assert "Play rl-video-step-200" in browser.run("document.activeElement.getAttribute('aria-label')")
    browser.press(" ")
    browser.wait_for(f"{VIDEO}.currentTime > 0.05")
    assert browser.run(f"document.activeElement === {VIDEO}")
    browser.press(" ")
    browser.wait_for(f"{VIDEO}.paused")
    browser.press(" ")
    browser.wait_for(f"!{VIDEO}.paused")
    focus(browser, "summary")
    browser.press("Enter")
    browser.wait_for("document.activeElement.parentElement.open")


def test_everything_that_can_be_used_has_a_name(browser: Browser, page: str) -> None:
    browser.show(page)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    used = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if node.get("role", {}).get("value") in ("link", "button", "searchbox", "article", "image", "region", "heading")
        and not node["ignored"]
    ]
    assert len([role for role, _ in used if role == "article"]) == 3
    assert [one for one in used if not one[1].strip()] == []


@pytest.mark.parametrize("width", [390, 320])
def test_it_fits_a_phone(browser: Browser, page: str, width: int) -> None:
    browser.show(page, width=width, height=844)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= width
    sizes = browser.run(
        "Array.from(document.querySelectorAll('p, dd, dt, h3, li, .axis text'))"
        ".map(one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 11


def luminance(colour: str) -> float:
    """Return the relative luminance of a CSS colour (WCAG 2.2)."""
    values = [float(value) / 255 for value in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_by_day_and_in_the_dark(browser: Browser, page: str, dark: bool) -> None:
    browser.show(page, dark=dark)
    paper, card = browser.run(
        "['body', '.clip'].map(one => getComputedStyle(document.querySelector(one)).backgroundColor)"
    )
    assert (luminance(paper) < 0.05) == dark
    for selector in (".lead", ".meta", "h3", ".state", ".causes li", "summary", ".sums dt"):
        colour = browser.run(f"getComputedStyle(document.querySelector({json.dumps(selector)})).color")
        for ground in (paper, card):
            low, high = sorted((luminance(colour), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{selector}: {colour} on {ground}"


def test_what_is_drawn_is_not_empty(browser: Browser, page: str, tmp_path: Path) -> None:
    browser.show(page)
    browser.wait_for("Array.from(document.images).every(one => one.complete && one.naturalWidth > 0)")
    browser.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 500


def test_filtering_leaves_what_was_asked_for(browser: Browser, page: str) -> None:
    browser.show(page)
    shown = "Array.from(document.querySelectorAll('.clip:not([hidden]) h3')).map(one => one.textContent)"
    set_to = "(text => { filter.value = text; filter.dispatchEvent(new Event('input')); })"
    browser.run(f"{set_to}('queue_full')")
    assert browser.run(shown) == ["rl-video-step-100"]
    browser.run(f"{set_to}('')")
    assert len(browser.run(shown)) == 3


@pytest.mark.parametrize("is_served", [False, True])
def test_hostile_names_and_values_run_nothing(
    browser: Browser, tmp_path: Path, stop: list[Any], is_served: bool
) -> None:
    evil = "<img src=x onerror=window.hit=1><script>window.hit=1<"
    name = "a\"'><script>window.hit=1<"
    (tmp_path / f"{name}.json").write_text(manifest_of(name, stream=evil, backend=evil))
    (tmp_path / f"{name}.mp4").write_bytes(b"no video")
    (tmp_path / "session.json").write_text(json.dumps({"codec": evil, evil: "</script><script>window.hit=1</script>"}))
    (tmp_path / "session.jsonl").write_text(json.dumps({"event": evil, "level": "warning", "a": evil}) + "\n")
    (tmp_path / "http: evil.example.json").write_text("{")
    if is_served:
        stop.append(serve(tmp_path))
        browser.show(stop[0][0].url)
        (tmp_path / f"{name}2.json").write_text(manifest_of(f"{name}2", stream=evil))
        browser.wait_for("document.querySelectorAll('.clip').length === 2")
    else:
        browser.show(write_gallery(tmp_path).path.as_uri())
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    browser.run("document.querySelector('a.play').click()")
    browser.wait_for(f"{VIDEO}.error")
    assert browser.run("window.hit") is None
    assert browser.run("Array.from(document.images).every(one => one.classList.contains('broken'))")
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert name in browser.run("document.body.textContent")
    origin = browser.run("location.href").rpartition("/")[0]
    assert [url for url in browser.requests() if not url.startswith(origin)] == []


def test_a_script_that_got_in_would_not_run(browser: Browser, recorded: Path, stop: list[Any]) -> None:
    stop.append(serve(recorded))
    browser.show(stop[0][0].url)
    browser.run(
        """(() => {
          const script = document.createElement('script');
          script.textContent = 'window.hit = 1';
          document.body.append(script);
          document.body.insertAdjacentHTML('beforeend', '<img src="http://127.0.0.1:9/x.png">');
        })()"""
    )
    assert browser.run("window.hit") is None
    browser.wait_for("Array.from(document.images).pop().complete")
    assert any("Content Security Policy" in line for line in browser.complaints())


def test_view_follows_a_run_and_keeps_the_clip_that_plays(browser: Browser, tmp_path: Path, stop: list[Any]) -> None:
    config = RecorderConfig(output_dir=tmp_path, video_length=0, episode_trigger=lambda episode: False, gop_s=0.2)
    with Recorder(config, SyntheticBackend(width=320, height=180)) as recorder:
        stop.append(serve(tmp_path))
        recorder.start_clip("first", length=90)
        for _ in range(90):
            recorder.step()
        recorder.flush()
        browser.show(stop[0][0].url)
        browser.wait_for("document.querySelector('.lead').textContent.includes('recording')")
        browser.wait_for("document.querySelector('#clip-rl-video-first a.play')")
        browser.run("document.querySelector('#clip-rl-video-first a.play').click()")
        browser.wait_for(f"{VIDEO}.currentTime > 0")
        browser.run(f"window.kept = {VIDEO}; kept.loop = true; kept.play()")
        recorder.start_clip("second")
        for _ in range(120):
            recorder.step()
        browser.wait_for("document.querySelector('#clip-rl-video-second .state.recording')")
        browser.wait_for("document.querySelector('#clip-rl-video-second a.play')?.href.endsWith('.000.mp4.part')")
        assert browser.run(f"window.kept === {VIDEO} && kept.isConnected && !kept.paused && !kept.error")
        assert browser.run("document.querySelector('.clip').id") == "clip-rl-video-second"
    browser.wait_for("document.querySelector('.lead').textContent.includes('finished')")
    browser.wait_for("document.querySelector('#clip-rl-video-second .state.complete')")
    assert browser.run(f"window.kept === {VIDEO} && kept.isConnected && !kept.error")
    assert browser.complaints() == []


def test_a_clip_that_is_recorded_plays_and_goes_on_where_it_has_grown(
    browser: Browser, tmp_path: Path, stop: list[Any]
) -> None:
    config = RecorderConfig(output_dir=tmp_path, video_length=0, episode_trigger=lambda episode: False, gop_s=0.2)
    with Recorder(config, SyntheticBackend(width=320, height=180)) as recorder:
        stop.append(serve(tmp_path))
        recorder.start_clip("open")
        for _ in range(60):
            recorder.step()
        browser.show(stop[0][0].url)
        browser.wait_for("document.querySelector('a.play')")
        browser.run("document.querySelector('a.play').click()")
        browser.wait_for(f"{VIDEO}.currentTime > 0.5")
        assert max(browser.run(PIXELS)) > 60
        browser.wait_for(f"{VIDEO}.dataset.waits")
        for _ in range(90):
            recorder.step()
        browser.wait_for(f"{VIDEO}.currentTime > 2.5")
    browser.wait_for(f"{VIDEO}.dataset.file.endsWith('open.mp4') && {VIDEO}.currentTime > 4")
