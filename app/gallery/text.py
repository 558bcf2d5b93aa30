"""Values as a page shows them, harmless whoever wrote them."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

_MOST_CHARS = 300


def attribute(value: object) -> str:
    """Return anything as HTML text, also inside of quotes: at most 300 characters, all of them visible."""
    text = str(value)
    if len(text) > _MOST_CHARS:
        text = text[: _MOST_CHARS - 1] + "\u2026"
    return escape("".join(char if char.isprintable() else ascii(char)[1:-1] for char in text))


def link(file: str) -> str:
    """Return the relative link to a file beside the page."""
    return "./" + quote(file)


def number(value: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f").replace("-", "\u2212")


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def size(nbytes: int) -> str:
    """Return a number of bytes for a person."""
    value, unit = float(nbytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f}\u00a0{unit}" if value >= 10 or unit == "bytes" else f"{value:.1f}\u00a0{unit}"


def duration(seconds: float) -> str:
    """Return a duration as minutes and seconds, or hours."""
    if seconds < 10:
        return f"{seconds:.1f}\u202fs"
    whole = round(min(seconds, 1e9))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def quantity(seconds: float) -> str:
    """Return a short time with its unit."""
    if seconds >= 1:
        return f"{seconds:.3g}\u202fs"
    if seconds >= 1e-3:
        return f"{1e3 * seconds:.3g}\u202fms"
    return f"{1e6 * seconds:.3g}\u202f\u00b5s"
