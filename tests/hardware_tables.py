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
from harness.runs.needs import memory
from harness.runs.needs.gpus import Gpu
from harness.runs.needs.hardware import Hardware, machine_for
from tests import ROOT
from tests.meta_device import training_gb

PAGE = ROOT / "docs" / "hardware.md"
NUMBERS, CARDS = (0, 1, 2, 4, 8), (24, 40, 80)
SHIPPED = ("h100x1", "h100x2", "h100x8", "a100x4", "a100x8", "a100x8-two-nodes", "slurm-a100x8", "slurm-ray")
STRATEGIES = {"none": "one process", "fsdp2": "FSDP2", "fsdp2_offload": "FSDP2, state on the host"}
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def computer(number: int, gigabytes: int) -> Hardware:
    """One with so many Ampere cards, 16 cores and 256 GB of memory."""
    return Hardware((Gpu(f"NVIDIA A-{gigabytes}GB", gigabytes * 2**30 / 1e9, 8.0),) * number, 16, 256.0)


COMPUTERS = {
    f"{number} x {gigabytes} GB" if number else "none": computer(number, gigabytes)
    for number in NUMBERS
    for gigabytes in (CARDS if number else CARDS[:1])
}


def renewed(page: str) -> str:
    """The page with its tables made anew."""
    made: dict[str, Callable[[], Iterator[str]]] = {"found": found, "memory": memory_table}
    return TABLE.sub(lambda match: match[1] + "\n".join(made[match[2]]()) + "\n" + match[3], page)


def found() -> Iterator[str]:
    """What each shipped recipe gets on each computer, those that get the same under one head; a refusal is a number, its line follows."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for name in recipes.available():
        columns.setdefault(_column(name), []).append(name)
    lines = [*dict.fromkeys(cell for column in columns for cell in column if not _is_machine(cell))]
    yield f"| GPUs | {' | '.join(', '.join(names) for names in columns.values())} |"
    yield "|---|" + "---|" * len(columns)
    for title, *cells in zip(COMPUTERS, *columns, strict=True):
        shown = [cell if _is_machine(cell) else f"refused [{lines.index(cell) + 1}]" for cell in cells]
        yield f"| {title} | {' | '.join(shown)} |"
    yield ""
    for number, line in enumerate(lines, 1):
        yield f"{number}. {line}"


def _column(name: str) -> tuple[str, ...]:
    """What a recipe gets on each computer, or the refusal with RECIPE for its name."""
    recipe = recipes.load(name)
    return tuple(_cell(recipe, here).replace(name, "RECIPE") for here in COMPUTERS.values())


def _is_machine(cell: str) -> bool:
    return not cell.startswith("RECIPE ")


def memory_table() -> Iterator[str]:
    """GB on each device while zephyr-7b trains, as the arithmetic has it and as counted on the meta device; then the refusals."""
    recipe, refusals = recipes.load("zephyr-7b"), list[str]()
    yield "| machine | weights | gradients | optimizer | copies | activations | sum | counted | usable | |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    for name in SHIPPED:
        machine = machines.load(name)
        stages = [memory.needed(recipe, stage, machine) for stage in plan(recipe) if stage.kind == "train"]
        most = max(stages, key=lambda one: one.total)
        values = [*most[:5], most.total, _counted_gb(recipe, machine), memory.USABLE * machine.memory_gb]
        reason = memory.refusal(recipe, machine)
        refusals += [f"{name}: {reason}"] if reason else []
        yield f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} | {f'refused [{len(refusals)}]' if reason else 'fits'} |"
    yield ""
    for number, line in enumerate(refusals, 1):
        yield f"{number}. {line}"


def _counted_gb(recipe: Recipe, machine: Machine) -> float:
    """The same sum from the architecture on the meta device, for the longest pairs there can be."""
    tokens = machine.micro_batch * (recipe.max_length + recipe.sampling.max_new_tokens)
    return training_gb(machine, tokens, recipe.optimizer.name)


def _cell(recipe: Recipe, here: Hardware) -> str:
    try:
        return _brief(machine_for(recipe, here))
    except MachineError as error:
        return str(error)


def _brief(machine: Machine) -> str:
    if machine.device == "cpu":
        return f"CPU, {machine.num_threads} thread{'s' * (machine.num_threads != 1)}"
    return f"{STRATEGIES[machine.sharding]}, {machine.micro_batch} pair{'s' * (machine.micro_batch != 1)}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
