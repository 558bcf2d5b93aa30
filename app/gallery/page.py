"""A folder index as HTML. Every value from a file is escaped by `attribute` or `link`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from ..clip import Clip, ClipState
from .folder import FolderIndex, FoundClip, is_left_open, seconds_of
from .plots import MIXED, StepTimes, losses, run_plot, step_time_line, timeline
from .strips import PICTURE_COUNT
from .text import attribute, duration, link, number, plural, size

GENERATOR = "stepreel gallery"
"""Says in the page's head who made it."""
_NOTHING_ELSE = "base-uri 'none'; form-action 'none'"
_MOST_ROWS = 200
_DOT = "\u00a0\u00b7 "
_POSTER_HEIGHT = 216
_STRIP_HEIGHT = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The small pictures of a clip, as addresses or data."""

    poster: str
    strip: str


FindSources = Callable[[FoundClip], Sources | None]
"""Returns None where a clip has no pictures."""


def to_page(index: FolderIndex, find_sources: FindSources, *, is_live: bool) -> str:
    """Return the whole page. A live one asks the server it came from what is new."""
    parts = to_parts(index)
    cards = "\n".join(to_card(found, find_sources(found), index) for found in index.clips)
    title = attribute(index.title)
    live = ' data-live="true"' if is_live else ""
    policy = "" if is_live else f'<meta http-equiv="Content-Security-Policy" content="{policy_of_file()}">\n'
    sections = {name: f'<div id="{name}" data-part>{html}</div>' for name, html in parts.items()}
    return f"""<!doctype html>
<html lang="en"{live}>
<head>
<meta charset="utf-8">
{policy}<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{GENERATOR}">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title} \u2013 stepreel</title>
<link rel="icon" href="data:,">
<style>{_asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#clips">Skip to the clips</a>
<header>
<h1>{title}</h1>
{sections["run"]}
</header>
<main>
{sections["pace"]}
<section aria-labelledby="clips-heading">
<div class="bar">
<h2 id="clips-heading">Clips</h2>
<output id="shown" for="filter"></output>
<label class="filter"><span>Filter</span><input type="search" id="filter" placeholder="name, step or state" \
autocomplete="off" spellcheck="false"></label>
</div>
<div id="clips" class="clips" tabindex="-1">
{cards}
</div>
<p class="empty" id="empty"{" hidden" if index.clips else ""}>No clip yet.</p>
</section>
{sections["notes"]}
{sections["configuration"]}
</main>
<p id="announce" class="hidden" role="status"></p>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def to_parts(index: FolderIndex) -> dict[str, str]:
    """Return the sections of a page besides its clips, each under the id of its element."""
    return {
        "run": _run(index),
        "pace": _pace(index),
        "notes": _warnings(index) + _unreadable(index),
        "configuration": _configuration(index.session),
    }


def to_card(found: FoundClip, sources: Sources | None, index: FolderIndex) -> str:
    """Return one clip."""
    clip = found.clip
    name = attribute(clip.name)
    strip = ""
    if sources:
        width, height = _strip_size(clip)
        strip = (
            f'<img class="strip" src="{attribute_of_source(sources.strip)}" width="{width}" height="{height}" '
            'alt="" loading="lazy" decoding="async">'
        )
    return (
        f'<article class="clip" id="clip-{name}" data-version="{found.version}" data-words="{_words(clip)}" '
        f'data-clip="{attribute_of_source(json.dumps(_playlist(found)))}" aria-label="{name}">'
        f'<div class="screen">{_screen(found, sources)}</div>'
        f'<div class="film">{strip}</div>'
        f'<div class="span">{timeline(clip)}</div>'
        f'<div class="facts">{_facts(found, index)}</div></article>'
    )


def attribute_of_source(value: str) -> str:
    """Return an address or data of our own making as an attribute, whole."""
    return value.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


@cache
def policy_of_file() -> str:
    """Return the Content-Security-Policy of a page that stands by itself: nothing from anywhere but its folder."""
    # A page opened from a disk has no origin of its own, so that 'self' alone would lock its videos out.
    return f"default-src 'none'; img-src data:; media-src 'self' file:; {_own_code()}; {_NOTHING_ELSE}"


@cache
def policy_of_server() -> str:
    """Return the Content-Security-Policy of a page that is served."""
    return (
        "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
        f"{_own_code()}; {_NOTHING_ELSE}; frame-ancestors 'none'"
    )


def _own_code() -> str:
    return f"script-src '{_digest(_asset('page.js'))}'; style-src '{_digest(_asset('page.css'))}'"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _screen(found: FoundClip, sources: Sources | None) -> str:
    clip = found.clip
    width, height = _poster_size(clip)
    picture = (
        f'<img class="poster" src="{attribute_of_source(sources.poster)}" width="{width}" height="{height}" alt="" '
        'loading="lazy" decoding="async">'
        if sources
        else f'<svg class="poster" width="{width}" height="{height}" aria-hidden="true"/>'
    )
    playable = found.files or ((found.part,) if found.part else ())
    if not playable:
        waits = clip.state in (ClipState.UNRENDERED, ClipState.RECORDING)
        why = "not drawn yet" if waits else "no video"
        return f'<div class="play none">{picture}<span class="nothing">{why}</span></div>'
    seconds = sum(segment.duration_s for segment in clip.segments)
    lasts = duration(seconds) if found.files else "so far"
    return (
        f'<a class="play" href="{attribute_of_source(link(playable[0]))}" '
        f'aria-label="Play {attribute(clip.name)}, {lasts}, {clip.state.value}">'
        f'{picture}<span class="glyph" aria-hidden="true"></span>'
        f'<span class="length" aria-hidden="true">{lasts}</span></a>'
    )


def _poster_size(clip: Clip) -> tuple[int, int]:
    width, height = clip.width or 16, clip.height or 9
    return min(max(round(_POSTER_HEIGHT * width / height), 54), 864), _POSTER_HEIGHT


def _strip_size(clip: Clip) -> tuple[int, int]:
    width, _ = _poster_size(clip)
    return width * _STRIP_HEIGHT // _POSTER_HEIGHT * PICTURE_COUNT, _STRIP_HEIGHT


def _playlist(found: FoundClip) -> dict[str, Any]:
    """Return what the script needs: each file, the step at its second 0, and the clip's own clock."""
    clip = found.clip
    there = set(found.files)
    playlist = [
        [link(segment.file), _base_step(clip, segment.file, segment.first_step), segment.duration_s]
        for segment in clip.segments
        if segment.file in there
    ]
    if found.part:
        first = clip.segments[-1].last_step + clip.frame_stride if clip.segments else clip.start_step
        playlist.append([link(found.part), _base_step(clip, found.part, first), None])
    ends = [segment.last_step for segment in clip.segments] + [last for _, last in clip.missing_steps]
    end = max(ends, default=clip.start_step) if clip.end_step is None else clip.end_step
    return {"fps": clip.fps, "stride": clip.frame_stride, "start": clip.start_step, "end": end, "files": playlist}


def _base_step(clip: Clip, file: str, first_step: int) -> int:
    is_first = file in (f"{clip.name}.mp4", f"{clip.name}.000.mp4", f"{clip.name}.000.mp4.part")
    return clip.start_step if is_first else first_step


def _words(clip: Clip) -> str:
    causes = " ".join(cause for cause, count in clip.frames.dropped.items() if count)
    return attribute(f"{clip.name} {clip.stream} {clip.state.value} {causes}".lower())


def _facts(found: FoundClip, index: FolderIndex) -> str:
    clip = found.clip
    name = attribute(clip.name)
    state = "left open" if is_left_open(found, is_recording=index.is_recording) else clip.state.value
    end = "" if clip.end_step is None else f" to {number(clip.end_step)}"
    lines = [f"steps {number(clip.start_step)}{end}"]
    if clip.frame_stride > 1:
        lines.append(f"every {number(clip.frame_stride)}th")
    if clip.frames.requested or clip.state is not ClipState.RECORDING:
        lines.append(f"{number(clip.frames.encoded)} of {plural(clip.frames.requested, 'frame')}")
    lines += [f"{clip.width}\u00d7{clip.height}"] if clip.width and clip.height else []
    lines.append(size(found.nbytes))
    lines += [f"stream {attribute(clip.stream)}"] if clip.stream not in ("", "default") else []
    lines += [attribute(clip.ended)] if clip.ended else []
    return (
        f'<div class="head"><h3>{name}</h3><span class="state {clip.state.value}">{state}</span></div>'
        f'<p class="meta">{_DOT.join(lines)}</p>{_drops(clip)}{_links(found)}'
        '<p class="now" hidden></p>'
    )


def _drops(clip: Clip) -> str:
    causes = [
        f'<li class="{cause.value}">{number(count)} {cause.value}</li>'
        for cause, count in clip.frames.dropped.items()
        if count
    ]
    if any(cause == MIXED for *_, cause in losses(clip)):
        causes.append(f'<li class="{MIXED}">several causes</li>')
    return f'<ul class="causes" aria-label="Dropped frames">{"".join(causes)}</ul>' if causes else ""


def _links(found: FoundClip) -> str:
    """Return links to the files of a clip with more than one."""
    names = (*found.files, *([found.part] if found.part else []))
    if len(names) < 2:
        return ""
    links = "".join(
        f'<li><a href="{attribute_of_source(link(name))}">{attribute(name[len(found.clip.name) + 1 :])}</a></li>'
        for name in names[:_MOST_ROWS]
    )
    return f'<details class="files"><summary>{plural(len(names), "segment")}</summary><ul>{links}</ul></details>'


def _run(index: FolderIndex) -> str:
    clips = [found.clip for found in index.clips]
    video_s = sum(segment.duration_s for clip in clips for segment in clip.segments)
    facts = [
        (number(len(clips)), "clip" if len(clips) == 1 else "clips"),
        (duration(video_s), "of video"),
        (size(sum(found.nbytes for found in index.clips)), "on disk"),
        (number(sum(clip.frames.encoded for clip in clips)), "frames encoded"),
    ]
    dropped = _dropped(clips)
    facts.append((number(sum(dropped.values())), "dropped"))
    items = "".join(f"<div><dd>{value}</dd><dt>{attribute(what)}</dt></div>" for value, what in facts)
    return f'<p class="lead">{_lead(index)}</p><dl class="sums">{items}</dl>{_losses(clips, dropped)}'


def _lead(index: FolderIndex) -> str:
    session = index.session
    parts = [attribute(name) for name in (_backends(session), session.get("codec")) if name and isinstance(name, str)]
    started = _time_of(session.get("started_at"))
    parts += [f"started {started:%Y-%m-%d %H:%M} UTC"] if started else []
    if index.is_recording:
        state, words = "recording", "recording"
    elif session.get("ended_at"):
        state, words = "complete", "finished"
    elif session:
        state, words = "incomplete", "ended without closing: stepreel recover mends what is left"
    else:
        return _DOT.join(parts)
    return f'<span class="state {state}">{words}</span> ' + _DOT.join(parts)


def _backends(session: Mapping[str, Any]) -> str:
    """Return the names of the backends of a run's streams, each once."""
    streams = session.get("streams")
    found = (
        [one.get("backend") for one in streams.values() if isinstance(one, dict)] if isinstance(streams, dict) else []
    )
    return ", ".join(dict.fromkeys(name for name in found if isinstance(name, str)))


def _time_of(value: object) -> datetime | None:
    seconds = seconds_of(value)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # In UTC it is before the year 1, or after 9999.
        return None


def _dropped(clips: Sequence[Clip]) -> Counter[str]:
    dropped: Counter[str] = Counter()
    for clip in clips:
        dropped.update({cause.value: count for cause, count in clip.frames.dropped.items() if count})
    return dropped


def _losses(clips: Sequence[Clip], dropped: Counter[str]) -> str:
    """Return a bar of all frames, what was dropped by cause at its end; "" where nothing was."""
    total = sum(clip.frames.encoded for clip in clips) + sum(dropped.values())
    if not dropped:
        return ""
    rects, left = [], 1000.0
    for cause, count in sorted(dropped.items()):
        width = max(1000 * count / total, 2.0)
        left -= width
        rects.append(f'<rect class="missing {cause}" x="{left:.1f}" width="{width:.1f}" height="8"/>')
    legend = "".join(f'<li class="{cause}">{number(count)} {cause}</li>' for cause, count in sorted(dropped.items()))
    return (
        '<svg class="losses" viewBox="0 0 1000 8" height="8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="segment" width="1000" height="8"/>{"".join(rects)}</svg>'
        f'<ul class="causes" aria-label="Dropped frames by cause">{legend}</ul>'
    )


def _pace(index: FolderIndex) -> str:
    if index.step_counts is None:
        return ""
    times = StepTimes.of(index.step_counts)
    clips = [found.clip for found in _of_latest_run(index)]
    plot = run_plot(times, clips)
    if not plot:
        return ""
    return (
        '<section class="pace" aria-labelledby="pace-heading"><div class="bar"><h2 id="pace-heading">Step time</h2>'
        f"<p>{step_time_line(times, clips)}</p></div>{plot}</section>"
    )


def _of_latest_run(index: FolderIndex) -> Iterator[FoundClip]:
    """Yield the clips that can be of the run whose pace is known: older runs counted their own steps."""
    started_s = seconds_of(index.step_counts.started_at if index.step_counts else None)
    for found in index.clips:
        if started_s is None or found.changed_s >= started_s - 1:
            yield found


def _warnings(index: FolderIndex) -> str:
    if not index.warnings:
        return ""
    rows = []
    for event in index.warnings:
        facts = ", ".join(
            f"{key}: {value}" for key, value in event.items() if key not in ("event", "level", "timestamp")
        )
        time = _time_of(event.get("timestamp"))
        when = f"{time:%m-%d %H:%M:%S}" if time else ""
        what = attribute(event.get("event", ""))
        rows.append(f"<tr><td>{when}</td><th scope=row>{what}</th><td>{attribute(facts)}</td></tr>")
    return _folded("warnings", f"{plural(len(rows), 'warning')} in the log", f"<table>{''.join(rows)}</table>")


def _unreadable(index: FolderIndex) -> str:
    lines = list(index.unreadable)
    lines += [f"{plural(index.left_out, 'older clip')} not shown"] if index.left_out else []
    if index.unlisted:
        lines.append(f"{plural(index.unlisted, 'video')} in no manifest; stepreel recover lists what it can")
    if not lines:
        return ""
    items = "".join(f"<li>{attribute(line)}</li>" for line in lines)
    return _folded("unreadable", f"{plural(len(lines), 'note')} on files", f"<ul>{items}</ul>")


def _configuration(session: Mapping[str, Any]) -> str:
    rows = list(_flat("", session))
    if not rows:
        return ""
    cells = "".join(
        f"<tr><th scope=row>{attribute(name)}</th><td>{attribute(value)}</td></tr>" for name, value in rows[:_MOST_ROWS]
    )
    return _folded("session", "Configuration and machine", f"<table>{cells}</table>")


def _flat(place: str, found: object, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested objects, each with its path."""
    if isinstance(found, Mapping) and depth < 6:
        for key, value in list(found.items())[:_MOST_ROWS]:
            yield from _flat(f"{place}.{key}" if place else str(key), value, depth + 1)
    else:
        yield place, found if isinstance(found, str) else json.dumps(found)


def _folded(name: str, title: str, body: str) -> str:
    return (
        f'<details class="panel" id="fold-{name}"><summary>{title}</summary><div class="scroll">{body}</div></details>'
    )


def state_of(index: FolderIndex) -> dict[str, Any]:
    """Return what a live page has to know: its sections, and the version of each clip."""
    return {
        "parts": to_parts(index),
        "clips": [[found.clip.name, found.version] for found in index.clips],
        "recording": [found.clip.name for found in index.clips if found.clip.state is ClipState.RECORDING],
    }
