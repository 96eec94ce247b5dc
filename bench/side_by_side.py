"""Seconds of a whole run with two stages side by side on two cores, against one after the other, in turns:

python -m bench.side_by_side [RECIPE] [ROUNDS]

Each round runs the recipe on `cpu-two-stages` (evaluation beside training), on `cpu1` (one after the other, one thread) and on `cpu` (one
after the other, two threads), in an order that turns round; the tables of the first two must be the same bytes. Lines give the load average
at each start: where others use the cores, only the ratio within a round says something, and even that favours whoever has two processes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.smoke.interruption import run, tables

MACHINES = ("cpu-two-stages", "cpu1", "cpu")


def measure(recipe: str, rounds: int, root: Path) -> dict[str, list[float]]:
    """{machine: seconds of each round}; a line for each run is printed when it ends."""
    seconds: dict[str, list[float]] = {name: [] for name in MACHINES}
    found: dict[str, bytes] = {}
    for number in range(rounds):
        turn = number % len(MACHINES)
        for name in (*MACHINES[turn:], *MACHINES[:turn]):
            load, began = os.getloadavg()[0], time.monotonic()
            run(recipe, root / f"{name}-{number}", name)
            seconds[name].append(time.monotonic() - began)
            print(f"round {number} {name}: {seconds[name][-1]:.1f} s, load at the start {load:.1f}", flush=True)
            found = found or tables(root / f"{name}-{number}")
            if name != "cpu" and tables(root / f"{name}-{number}") != found:
                raise AssertionError(f"the tables of {name} in round {number} differ from the first run's")
    return seconds


def main() -> None:
    recipe, rounds = (*sys.argv[1:], *("tiny", "3")[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(recipe, int(rounds), Path(folder))
    for name in MACHINES[1:]:
        ratios = [one / beside for one, beside in zip(seconds[name], seconds[MACHINES[0]], strict=True)]
        print(f"{name} / {MACHINES[0]}: {statistics.median(ratios):.2f} (median of {len(ratios)}; {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
