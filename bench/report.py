"""Times of `tables` and `report` on a full-size run (6 rows, 17 tasks, every question, 49,800 prompts): python bench/report.py."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness.recipe import Task, load, replace
from tests.reported_runs import write_reported_run
from tests.synthetic_runs import CONTROL, Values

QUESTIONS = {
    "arc_challenge": 1172, "truthfulqa_mc2": 817, "winogrande": 1267, "gsm8k": 1319, "hellaswag": 10042, "mmlu": 14042,
    "openbookqa": 500, "bbh_causal_judgement": 187, "bbh_formal_fallacies": 250, "bbh_sports_understanding": 250, "mt_bench": 160,
}  # fmt: skip
NUM_PROMPTS, NUM_STEPS, HELD_OUT = 49_800, 3112, 1000
TARGETS = {"tables": 3.0, "report": 10.0}
MAX_PAGE_MIB = 2.0


def values(row: str, task: Task) -> Values:
    """Every question of the task, named by a sha256 as lm-eval's are; iterations answer a few more. Held-out prompts: `HELD_OUT`."""
    draw, better = random.Random(task.name), 0.02 * (row != "sft")
    own = random.Random(f"{row} {task.name}")
    size = QUESTIONS.get(task.name, HELD_OUT)
    right = (100.0 if draw.random() < 0.6 + better and own.random() < 0.95 else 0.0 for _ in range(size))
    return {f"{task.name}-{i:056x}": value for i, value in enumerate(right)}


def cpu_seconds() -> float:
    """Processor time of the commands so far: what a busy machine does not lengthen."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = replace(load("zephyr-7b"), name="full-size", controls={"control": CONTROL})
        run = write_reported_run(Path(folder) / "run", recipe, values, NUM_PROMPTS, NUM_STEPS)
        for command, target in TARGETS.items():
            start, cpu = time.perf_counter(), cpu_seconds()
            subprocess.run([sys.executable, "-m", "harness", command, str(run)], stdout=subprocess.DEVNULL, check=True)
            spent = cpu_seconds() - cpu
            print(f"{command}: {time.perf_counter() - start:.1f} s, {spent:.1f} s of them on the processor (target {target:.0f} s)")
        print(f"report.html: {(run / 'report.html').stat().st_size / 2**20:.2f} MiB (target {MAX_PAGE_MIB:.0f})")
        print(f"peak memory of the commands: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
