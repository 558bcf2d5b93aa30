"""The page of promises and the rows that test them."""

from __future__ import annotations

import re
from pathlib import Path

from .matrix import ROWS
from .rows import MODULES

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_each_promise_on_the_page_is_that_of_a_row_and_each_row_is_there() -> None:
    lines = re.findall(r"^\| (.*) \| `([^`]+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [(promise, name) for promise, name in lines] == [(row.promise, row.name) for row in ROWS.values()]


def test_each_theme_has_a_section_of_its_own() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    tables = [section for section in sections if "| promise | row |" in section]
    assert len(tables) == len(MODULES)
