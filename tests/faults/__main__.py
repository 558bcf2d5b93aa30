"""`python -m tests.faults`: the matrix, every row with every seed, and a table at the end."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from .harness import Outcome, keep_mounts_private
from .matrix import Row
from .rows import ROWS


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One try, and what came of it."""

    row: Row
    seed: int
    outcome: Outcome
    took_s: float


def main() -> int:
    """Run what was asked for; return 1 where anything did not hold."""
    arguments = _arguments()
    if arguments.list:
        for one in ROWS.values():
            print(f"{one.name}: {one.promise}")
        return 0
    # A background job of a shell is told to ignore Ctrl-C, and so would be what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_mounts_private()
    chosen = [ROWS[name] for name in arguments.row or ROWS]
    seeds = arguments.seed or _draw_seeds(arguments.seeds, arguments.first_seed)
    # A try of each row in turn: those that wait go together with those that compute.
    tries = [
        (one, seed)
        for nth, seed in enumerate(seeds)
        for one in chosen
        if arguments.seed or one.tries is None or nth < one.tries
    ]
    # The long ones first, so that none runs alone at the end.
    tries.sort(key=lambda pair: not pair[0].slow)
    found: list[Tried] = []
    start = time.monotonic()
    for tried in _run(tries, arguments.at_once, long=not arguments.short):
        is_news = not any(one.row is tried.row and one.outcome.skipped for one in found)
        if arguments.verbose or not tried.outcome.held or (tried.outcome.skipped and is_news):
            _tell(tried)
        found.append(tried)
    _print_table(chosen, found, time.monotonic() - start)
    is_broken = any(not tried.outcome.held or (tried.outcome.skipped and arguments.no_skips) for tried in found)
    return 1 if is_broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="random seeds for each row (20)")
    parser.add_argument("--first-seed", type=int, help="where the seeds are drawn from; random where not given")
    parser.add_argument("--row", action="append", choices=ROWS, metavar="NAME", help="this row only; may be repeated")
    parser.add_argument("--seed", type=int, action="append", help="this seed only, to repeat a try")
    parser.add_argument("--at-once", type=int, default=4, help="tries at a time (4)")
    parser.add_argument("--short", action="store_true", help="endure less: 150 clips, and 5,000 frames")
    parser.add_argument("--no-skips", action="store_true", help="count a row that can't be tried here as broken")
    parser.add_argument("--verbose", action="store_true", help="tell of each try")
    parser.add_argument("--list", action="store_true", help="list the rows and what they promise")
    return parser.parse_args()


def _draw_seeds(count: int, first_seed: int | None) -> list[int]:
    drawn = random.SystemRandom().randrange(10**6) if first_seed is None else first_seed
    print(f"seeds drawn from {drawn}: --first-seed {drawn} draws the same", flush=True)
    source = random.Random(drawn)
    return [source.randrange(10**6) for _ in range(count)]


def _run(tries: list[tuple[Row, int]], at_once: int, *, long: bool) -> Iterator[Tried]:
    with ThreadPoolExecutor(at_once) as pool:
        futures: list[Future[Tried]] = [pool.submit(_try, one, seed, long=long) for one, seed in tries]
        for future in as_completed(futures):
            yield future.result()


def _try(one: Row, seed: int, *, long: bool) -> Tried:
    start = time.monotonic()
    outcome = one.run(seed, long=long)
    return Tried(row=one, seed=seed, outcome=outcome, took_s=time.monotonic() - start)


def _tell(tried: Tried) -> None:
    verdict = "skipped" if tried.outcome.skipped else "held" if tried.outcome.held else "BROKEN"
    print(f"{verdict}: {tried.row.name}, seed {tried.seed}, {tried.took_s:.1f} s: {tried.outcome.detail}")
    if not tried.outcome.held:
        print(f"  again: python -m tests.faults --row {tried.row.name} --seed {tried.seed}", flush=True)


def _print_table(chosen: list[Row], found: list[Tried], took_s: float) -> None:
    print(f"\n{'row':30} {'tries':>5} {'held':>5} {'worst loss':>10} {'longest':>8}")
    for one in chosen:
        mine = [tried for tried in found if tried.row is one and not tried.outcome.skipped]
        held = sum(tried.outcome.held for tried in mine)
        loss = max((tried.outcome.loss_frames for tried in mine), default=0)
        longest = max((tried.took_s for tried in mine), default=0.0)
        mark = "" if held == len(mine) else "  <-- did not hold"
        skipped = "  not possible here" if not mine else ""
        print(f"{one.name:30} {len(mine):5} {held:5} {loss:10} {longest:6.1f} s{mark}{skipped}")
    print(f"worst loss: frames in a single try; {took_s:.0f} s in all")


if __name__ == "__main__":
    sys.exit(main())
