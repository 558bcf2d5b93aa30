"""Ctrl-C at a chosen instruction."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import CodeType, FrameType
from typing import Any


class Interruption:
    """Raises `KeyboardInterrupt` where the interpreter would answer a signal for the n-th time, counted from 0.

    Only the thread that enters the context is interrupted, and only in the code that it calls from there.
    """

    def __init__(self, place: int) -> None:
        self._left = place
        self.came = False
        """Whether there was an n-th time."""
        self._places: dict[CodeType, frozenset[int]] = {}

    def run(self, call: Callable[[], object]) -> None:
        """Call it, and swallow the interruption."""
        try:
            sys.settrace(self._trace_call)
            call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)

    def _trace_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._pass()
        return self._trace_opcode

    def _trace_opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and frame.f_lasti in self._places_in(frame.f_code):
            self._pass()
        return self._trace_opcode

    def _pass(self) -> None:
        if not self.came:
            self._left -= 1
            if self._left < 0:
                self.came = True
                raise KeyboardInterrupt

    def _places_in(self, code: CodeType) -> frozenset[int]:
        """Return the places of a function other than its beginning: after each call, and where a loop turns.

        The call itself raises what a signal's handler raises: not where the next instruction is in other hands.
        """
        if code not in self._places:
            found: set[int] = set()
            call: int | None = None
            for instruction in dis.get_instructions(code):
                here = instruction.offset
                if call is not None and _handler(code, call) == _handler(code, here):
                    found.add(here)
                if instruction.opname == "JUMP_BACKWARD":
                    found.add(here)
                call = here if instruction.opname.startswith("CALL") else None
            self._places[code] = frozenset(found)
        return self._places[code]


def interrupt_everywhere(make: Callable[[], Any], call: Callable[[Any], object]) -> Iterator[Any]:
    """Yield what `make` returns after each interruption of `call` with it: at the first place, the second, ..."""
    for place in count():
        subject = make()
        interruption = Interruption(place)
        interruption.run(lambda subject=subject: call(subject))  # type: ignore[misc]
        yield subject
        if not interruption.came:
            break
    assert place > 2


def _handler(code: CodeType, offset: int) -> int | None:
    """Return where an exception goes on that an instruction raises, inside of its function."""
    entries: Any = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
    return next((one.target for one in entries if one.start <= offset < one.end), None)
