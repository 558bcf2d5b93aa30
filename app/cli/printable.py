"""Text that somebody else may have written, such as a file's name, made harmless for a screen."""

from __future__ import annotations


def printable(line: str) -> str:
    """Return a line in which whatever is no visible character, such as an escape code, is written out as `\\x1b`."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
