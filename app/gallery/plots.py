"""Drawings of a run and of a clip, as SVG without scripts or styles of its own.

Curves lie in a drawing that is stretched to the page's width; text lies outside of it and is not.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from urllib.parse import quote

from ..clip import Clip, ClipState, Ranges
from ..storage.step_counts import StepCounts
from .text import attribute, number, plural, quantity

_PARTS = 400
"""Columns into which a clip's timeline is divided: what is finer can't be seen."""
MIXED = "mixed"
"""Frames that are missing for several reasons, or for an unknown one."""
_MOST_BANDS = 1000
_MOST_WIDE_BANDS = 60
_MARK_HEIGHT = 6
_HEIGHT = 180
_WIDE = 1000.0
_LOG_FROM = 6.0
"""Ratio of the slowest to the fastest from which on the axis is logarithmic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Mean times of a step [s], each over the steps between two samples."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    seconds: tuple[float, ...]
    first: int
    last: int
    """Steps of the whole run, those without a time too."""

    @classmethod
    def of(cls, counts: StepCounts) -> StepTimes:
        """Return the step times between the samples of a run.

        Where it did not step all the time from one sample to the next, as before and after a pause or at its end, that
        is no step's time; unless there is nothing else to go by. A step that took longer than that is one time.
        """
        spans = [span for place in range(1, len(counts.steps)) if (span := _span(counts, place))]
        whole = [span for span in spans if span.is_whole]
        whole = whole if len(whole) > 1 else spans
        return cls(
            starts=tuple(span.start for span in whole),
            ends=tuple(span.end for span in whole),
            seconds=tuple(span.duration_s / (span.end - span.start) for span in whole),
            first=counts.steps[0] if counts.steps else 0,
            last=counts.steps[-1] if counts.steps else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """Steps between two samples."""

    start: int
    end: int
    duration_s: float
    is_whole: bool
    """Steps were taken right before and right after it, too."""


def _span(counts: StepCounts, place: int) -> _Span | None:
    """Return what was stepped from the sample before `place` until it; None: nothing."""
    steps, seconds = counts.steps, counts.seconds
    before = place - 1
    if steps[place] == steps[before] or seconds[place] <= seconds[before]:
        return None
    since = bisect_left(steps, steps[before])
    is_slow = steps[place] - steps[before] == 1 and since > 0 and steps[since] - steps[since - 1] == 1
    is_followed = place + 1 < len(steps) and steps[place + 1] > steps[place]
    is_whole = is_slow or (since == before > 0 and is_followed)
    duration_s = seconds[place] - seconds[since if is_slow else before]
    return _Span(start=steps[before], end=steps[place], duration_s=duration_s, is_whole=is_whole)


def timeline(clip: Clip) -> str:
    """Return a clip's span: its segments, and what is missing of them, by cause."""
    first, length = clip.start_step, _length(clip)
    body = []
    for segment in clip.segments[:_PARTS]:
        left = _place(segment.first_step, first, length)
        right = _place(segment.last_step + clip.frame_stride, first, length)
        body.append(f'<rect class="segment" x="{left:.2f}" width="{max(right - left, 1.0):.2f}" y="3" height="10"/>')
    scale = _WIDE / _PARTS
    for left, right, cause in losses(clip):
        body.append(
            f'<rect class="missing {cause}" x="{left * scale:.2f}" width="{(right - left) * scale:.2f}" '
            'y="0" height="16"/>'
        )
    return (
        f'<svg class="timeline" role="img" aria-label="{attribute(_describe(clip))}" height="16" '
        f'viewBox="0 0 {_WIDE:.0f} 16" preserveAspectRatio="none"><rect class="track" width="{_WIDE:.0f}" '
        f'height="2" y="7"/>{"".join(body)}<rect class="playhead" width="3" height="16" x="-10"/></svg>'
    )


def _length(clip: Clip) -> int:
    """Return the steps of a clip's span, as far as it is known."""
    ends = [segment.last_step for segment in clip.segments] + [last for _, last in clip.missing_steps]
    end = max(ends, default=clip.start_step) if clip.end_step is None else clip.end_step
    return max(end - clip.start_step + clip.frame_stride, 1)


def _place(step: int, first: int, length: int) -> float:
    return _WIDE * min(max((step - first) / length, 0.0), 1.0)


def losses(clip: Clip) -> tuple[tuple[int, int, str], ...]:
    """Return where steps are missing, from part to part of the timeline, and why; `MIXED` for more than one cause."""
    causes: dict[int, str] = {}
    for cause, spans in clip.missing_by_cause.items():
        for part in _missing_parts(clip, spans):
            causes[part] = cause.value if causes.get(part, cause.value) == cause.value else MIXED
    for part in _missing_parts(clip, clip.missing_steps):
        causes.setdefault(part, MIXED)
    found: list[tuple[int, int, str]] = []
    for part, name in sorted(causes.items()):
        if found and found[-1][1:] == (part, name):
            found[-1] = (found[-1][0], part + 1, name)
        else:
            found.append((part, part + 1, name))
    return tuple(found)


def _missing_parts(clip: Clip, spans: Ranges) -> Iterator[int]:
    for left, right in _merge(_parts(clip, spans)):
        yield from range(left, right)


def _parts(clip: Clip, spans: Ranges) -> Iterator[tuple[int, int]]:
    first, length = clip.start_step, _length(clip)
    for start, end in spans:
        left = (start - first) * _PARTS // length
        right = -(-(end - first + clip.frame_stride) * _PARTS // length)
        if right > 0 and left < _PARTS:
            yield max(left, 0), min(max(right, left + 1), _PARTS)


def _merge(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield parts that touch as one."""
    current: tuple[int, int] | None = None
    for left, right in sorted(set(parts)):
        if current and left <= current[1]:
            current = (current[0], max(current[1], right))
            continue
        if current:
            yield current
        current = (left, right)
    if current:
        yield current


def _describe(clip: Clip) -> str:
    end = "" if clip.end_step is None else f" to {number(clip.end_step)}"
    missing = sum(last - first + clip.frame_stride for first, last in clip.missing_steps) // clip.frame_stride
    causes = ", ".join(f"{number(count)} {cause}" for cause, count in clip.frames.dropped.items() if count)
    lost = f"{plural(missing, 'step')} missing" + (f" ({causes})" if missing and causes else "")
    return f"Steps {number(clip.start_step)}{end}, {plural(len(clip.segments), 'segment')}, {lost}"


def run_plot(times: StepTimes, clips: Sequence[Clip]) -> str:
    """Return the step times of a run over its steps, the spans of its clips marked; "" where nothing is known."""
    if len(times.seconds) < 2:
        return ""
    axis = _Axis.of(times)
    shown = [clip for clip in clips[:_MOST_BANDS] if clip.start_step < axis.last]
    bands = [_band(clip, _end(clip, times), axis, is_wide=len(shown) <= _MOST_WIDE_BANDS) for clip in shown]
    area = (
        f'<svg class="area" viewBox="0 0 {_WIDE:.0f} {_HEIGHT}" height="{_HEIGHT}" preserveAspectRatio="none">'
        f'{"".join(bands)}{_grid(axis)}<path class="curve" d="{_path(times, axis)}"/></svg>'
    )
    label = f"Time of a step, median {quantity(median(times.seconds))}, over {plural(axis.last, 'step')}"
    return f'<div class="plot" role="img" aria-label="{attribute(label)}">{_labels(axis)}{area}{_steps(axis)}</div>'


def _end(clip: Clip, times: StepTimes) -> int:
    """Return the step after a clip's span; one that is still captured reaches to where the run is."""
    if clip.state is ClipState.RECORDING and clip.end_step is None:
        return max(times.last, clip.start_step + 1)
    return clip.start_step + _length(clip)


def _band(clip: Clip, end: int, axis: _Axis, *, is_wide: bool) -> str:
    """Return the mark of a clip: at the foot of the plot, and through all of it where there are few."""
    left = axis.x(clip.start_step)
    place = f'x="{left:.2f}" width="{max(axis.x(end) - left, 1.0):.2f}"'
    wide = f'<rect class="band" {place} y="0" height="{_HEIGHT}"/>' if is_wide else ""
    return (
        f'<a href="#{quote("clip-" + clip.name)}" tabindex="-1"><title>{attribute(clip.name)}</title>{wide}'
        f'<rect class="mark" {place} y="{_HEIGHT - _MARK_HEIGHT}" height="{_MARK_HEIGHT}"/></a>'
    )


def step_time_line(times: StepTimes, clips: Sequence[Clip]) -> str:
    """Return the median step time with and without a clip being captured, as a line of text."""
    if not times.seconds:
        return ""
    spans = sorted((clip.start_step, _end(clip, times)) for clip in clips)
    inside, outside = [], []
    for start, end, seconds in zip(times.starts, times.ends, times.seconds, strict=True):
        place = bisect_right(spans, (start, math.inf))
        is_within = any(first <= start and end <= last for first, last in spans[max(0, place - 2) : place])
        touches = any(first < end and start < last for first, last in spans[max(0, place - 2) : place + 2])
        if is_within:
            inside.append(seconds)
        elif not touches:
            outside.append(seconds)
    parts = [f"{quantity(median(outside))} between clips"] if outside else []
    parts += [f"{quantity(median(inside))} while a clip is captured"] if inside else []
    return ("median " + ", ".join(parts)) if parts else f"median {quantity(median(times.seconds))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """From steps and seconds to places in the plot."""

    first: int
    last: int
    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, times: StepTimes) -> _Axis:
        fastest, slowest = min(times.seconds), max(times.seconds)
        is_log = slowest > _LOG_FROM * fastest
        low = fastest / 1.3 if is_log else 0.0
        return cls(first=times.first, last=times.last, low=low, high=slowest * 1.15, is_log=is_log)

    def x(self, step: int) -> float:
        return _WIDE * min(max((step - self.first) / max(self.last - self.first, 1), 0.0), 1.0)

    def y(self, seconds: float) -> float:
        if self.is_log:
            share = math.log(seconds / self.low) / math.log(self.high / self.low)
        else:
            share = (seconds - self.low) / (self.high - self.low)
        return _HEIGHT * (1.0 - share)

    def ticks(self) -> list[float]:
        """Return two to five round times [s]."""
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            few = len(decades) <= 3
            found = [digit * 10.0**decade for decade in decades for digit in ((1, 2, 5) if few else (1,))]
            found = [value for value in found if self.low <= value <= self.high]
            return found[:: max(1, len(found) // 5)]
        step = 10.0 ** math.floor(math.log10(self.high / 2))
        while self.high / step > 4:
            step *= 2
        return [count * step for count in range(1, int(self.high / step) + 1)]


def _path(times: StepTimes, axis: _Axis) -> str:
    points = []
    for start, end, seconds in zip(times.starts, times.ends, times.seconds, strict=True):
        y = axis.y(seconds)
        points += [f"{axis.x(start):.1f} {y:.1f}", f"{axis.x(end):.1f} {y:.1f}"]
    return "M" + "L".join(points)


def _grid(axis: _Axis) -> str:
    lines = [f'<path class="grid" d="M0 {axis.y(value):.1f}H{_WIDE:.0f}"/>' for value in axis.ticks()]
    return "".join(lines)


def _labels(axis: _Axis) -> str:
    texts = [
        f'<text x="46" y="{min(max(axis.y(value) + 4, 10), _HEIGHT):.1f}" text-anchor="end">{quantity(value)}</text>'
        for value in axis.ticks()
    ]
    return f'<svg class="axis" width="52" height="{_HEIGHT}">{"".join(texts)}</svg>'


def _steps(axis: _Axis) -> str:
    middle = (axis.first + axis.last) // 2
    labels = (f"step {number(axis.first)}", number(middle), number(axis.last))
    return '<div class="steps">' + "".join(f"<span>{label}</span>" for label in labels) + "</div>"
