"""Errors are told in one line, whatever they are made of."""

from __future__ import annotations

import pytest

from stepreel.errors import describe


class Unspeakable(Exception):
    """Raises once more when somebody asks for its text."""

    def __init__(self, answer: BaseException) -> None:
        self.answer = answer

    def __str__(self) -> str:
        raise self.answer


def test_an_exception_is_told_in_one_line() -> None:
    assert describe(ValueError("first\n  second\tthird")) == "ValueError: first second third"
    assert describe(KeyError()) == "KeyError"


def test_a_long_text_is_cut() -> None:
    assert describe(ValueError("x" * 10_000)) == "ValueError: " + "x" * 488


@pytest.mark.parametrize("answer", [RuntimeError("no"), SystemExit(3), KeyboardInterrupt(), RecursionError()])
def test_an_exception_whose_text_can_not_be_had_is_told_by_name(answer: BaseException) -> None:
    assert describe(Unspeakable(answer)) == "Unspeakable"


def test_a_text_that_is_no_unicode_can_be_sent_all_the_same() -> None:
    assert describe(OSError("no \udcff here")).encode() == b"OSError: no ? here"
