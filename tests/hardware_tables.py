"""The tables of docs/hardware.md, made by the code that decides: `python -m tests.hardware_tables` renews the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from harness import machine as machines
from harness import recipe as recipes
from harness.errors import MachineError
from harness.machine import Machine
from harness.plan import plan
from harness.recipe import Recipe
from harness.runs import memory
from harness.runs.hardware import Gpu, Hardware, machine_for
from tests import ROOT

PAGE = ROOT / "docs" / "hardware.md"
NUMBERS, CARDS = (0, 1, 2, 4, 8), (24, 40, 80)
SHOWN = ("tiny", "smollm2-135m", "qwen3-0-6b", "zephyr-7b", "tulu-2-70b")
SHIPPED = ("h100x1", "h100x2", "h100x8", "a100x4", "a100x8", "a100x8-two-nodes")
STRATEGIES = {"none": "one process", "fsdp2": "FSDP2", "fsdp2_offload": "FSDP2, state on the host"}
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def computer(number: int, gigabytes: int) -> Hardware:
    """One with so many Ampere cards, 16 cores and 256 GB of memory."""
    return Hardware((Gpu(f"NVIDIA A-{gigabytes}GB", gigabytes * 2**30 / 1e9, 8.0),) * number, 16, 256.0)


def renewed(page: str) -> str:
    """The page with its tables made anew."""
    made: dict[str, Callable[[], Iterator[str]]] = {"found": found, "memory": memory_table}
    return TABLE.sub(lambda match: match[1] + "\n".join(made[match[2]]()) + "\n" + match[3], page)


def found() -> Iterator[str]:
    """What each recipe gets on each computer; a refusal is a number, and its line follows."""
    lines: list[str] = []
    yield f"| GPUs | {' | '.join(SHOWN)} |"
    yield "|---|" + "---|" * len(SHOWN)
    for number in NUMBERS:
        for gigabytes in CARDS if number else (0,):
            title = f"{number} x {gigabytes} GB" if number else "none"
            yield f"| {title} | {' | '.join(_cell(recipes.load(name), computer(number, gigabytes), lines) for name in SHOWN)} |"
    yield ""
    for number, line in enumerate(lines, 1):
        yield f"{number}. {line}"


def memory_table() -> Iterator[str]:
    """GB on each device while zephyr-7b trains."""
    recipe = recipes.load("zephyr-7b")
    yield "| machine | weights | gradients | optimizer | copies | activations | sum | usable | |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    for name in SHIPPED:
        machine = machines.load(name)
        stages = [memory.needed(recipe, stage, machine) for stage in plan(recipe) if stage.kind == "train"]
        most = max(stages, key=lambda one: one.total)
        values = [*most[:5], most.total, memory.USABLE * machine.memory_gb]
        verdict = "fits" if memory.refusal(recipe, machine) is None else "refused"
        yield f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} | {verdict} |"


def _cell(recipe: Recipe, here: Hardware, lines: list[str]) -> str:
    try:
        return _brief(machine_for(recipe, here))
    except MachineError as error:
        lines.append(str(error))
        return f"refused [{len(lines)}]"


def _brief(machine: Machine) -> str:
    if machine.device == "cpu":
        return f"CPU, {machine.num_threads} thread{'s' * (machine.num_threads != 1)}"
    return f"{STRATEGIES[machine.sharding]}, {machine.micro_batch} pairs"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
