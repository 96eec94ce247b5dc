"""`harness rehearse`: a recipe tried in minutes, before hours are spent on it."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import machine as machines
from harness import recipe as recipes
from harness.artifact import RunDir
from harness.cli.doctor import preflight
from harness.cli.preflight import Context
from harness.cli.printing import RUN, FormatOption, MachineOption, RecipeArg, announce, out, quantity, right_aligned, show_json, table
from harness.machine import Machine
from harness.recipe import ModelRef, Recipe
from harness.runs import runner
from harness.runs.lock import hold
from harness.runs.needs import hardware
from harness.runs.needs.directory import refuse_foreign
from harness.runs.rehearsal import foretold
from harness.runs.rehearsal.cut import changed, cut, models_of, with_files, without_vllm
from harness.runs.rehearsal.foretold import Rehearsal
from harness.runs.rehearsal.random_weights import num_parameters, random_model

app = typer.Typer()

PAIRS_A_DEVICE = 2
"""Of a step from random weights."""
NARROW_PARAMETERS = 5e6
"""About what a narrow model has: a vocabulary of 32 to 150 thousand."""


@app.command(rich_help_panel=RUN)
def rehearse(
    recipe: RecipeArg,
    machine: MachineOption = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="The directory (default: rehearsals/RECIPE/MACHINE).")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="From configuration and tokenizer alone: two layers, on a CPU narrow ones.")
    ] = False,
    files: Annotated[
        Path | None,
        typer.Option("--files", help="A directory with config.json, tokenizer and data files named by split, in place of the Hub."),
    ] = None,
    format: FormatOption = "text",
) -> None:
    """Run RECIPE cut to minutes: every stage, the longest prompts, two steps a training, two questions a task; and what that foretells.

    `harness plan` then quotes it. A rehearsal is no run: it has a directory of its own, and no tables are made of it.
    """
    loaded = recipes.load(recipe)
    place = _place(loaded, machine, random_weights=random_weights)
    folder = out_dir or foretold.folder_for(loaded, place, random_weights=random_weights)
    foretold.refuse_run(folder)
    refuse_foreign(folder, loaded)
    tried = with_files(loaded, files) if files else loaded
    if random_weights:
        tried = _from_random_weights(tried, files, folder, place)
    short = cut(tried, PAIRS_A_DEVICE * place.num_devices if random_weights else None)
    for line in preflight(Context(short, folder.parent, date.today(), place, run=folder)):
        announce(f"warning: {line}")
    with hold(folder):
        foretold.refuse_run(folder)  # which may have begun meanwhile
        foretold.begin(folder, loaded, place, random_weights=random_weights)
    runner.reproduce(short, RunDir(folder), _in_two_rounds(place, short), None, announce)
    is_quoted = folder.absolute() == foretold.folder_for(loaded, place, random_weights=False).absolute()
    _show(foretold.finish(folder, loaded, short), folder, format, is_quoted=is_quoted)


def _place(recipe: Recipe, machine: str | None, *, random_weights: bool) -> Machine:
    """The machine named, or what this computer is for the run; without a GPU, for a narrow model."""
    here = hardware.look()
    if random_weights and not here.gpus:
        recipe = _of_size(recipe, NARROW_PARAMETERS)
    return machines.load(machine) if machine else hardware.machine_for(recipe, here)


def _from_random_weights(recipe: Recipe, files: Path | None, folder: Path, place: Machine) -> Recipe:
    """`recipe` with models of random weights made in `folder`, and an engine that is here."""

    def made(ref: ModelRef) -> ModelRef:
        return random_model(ref, files, folder / "random", narrow=place.device == "cpu")

    found = without_vllm(changed(recipe, ModelRef, made))
    if found.engine != recipe.engine:
        announce(f"vLLM is not installed here: the engine is {found.engine}, where the recipe says {recipe.engine}")
    sizes = [num_parameters(Path(model.name)) for model in models_of(found) if model.source == "path"]
    return _of_size(found, max(sizes)) if sizes else found


def _of_size(recipe: Recipe, parameters: float) -> Recipe:
    return recipe.model_copy(update={"sizes": recipe.sizes.model_copy(update={"num_parameters": parameters})})


def _in_two_rounds(machine: Machine, short: Recipe) -> Machine:
    """The machine with shards so small that each engine answers two, of which the second is timed."""
    half = math.ceil(short.prompts.num_prompts / (2 * machine.num_replicas))
    return machine.model_copy(update={"generate_shard": min(machine.generate_shard, half)})


def _show(found: Rehearsal, folder: Path, format: str, *, is_quoted: bool) -> None:
    if format == "json":
        show_json(found.model_dump(mode="json"))
        return
    rows = [
        {
            "stage": line.path,
            "seconds": f"{line.seconds:.1f}",
            "peak GB": f"{line.memory_gb:.2f}",
            "of a": "device" if line.is_device else "process",
            "foretold hours": quantity(line.foretold_hours),
        }
        for line in found.stages
    ]
    rows.append(_sums(found))
    out.print(right_aligned(table(f"{found.recipe} on {found.machine.name}: a rehearsal", rows)))
    for note in _notes(found, folder, is_quoted=is_quoted):
        out.print(note, markup=False, highlight=False)


def _sums(found: Rehearsal) -> dict[str, Any]:
    return {
        "stage": "total",
        "seconds": f"{sum(line.seconds for line in found.stages):.1f}",
        "peak GB": f"{max(line.memory_gb for line in found.stages):.2f}",
        "of a": "",
        "foretold hours": quantity(sum(line.foretold_hours or 0.0 for line in found.stages)),
    }


def _notes(found: Rehearsal, folder: Path, *, is_quoted: bool) -> list[str]:
    """What the hours rest on."""
    if found.random_weights:
        return [f"random weights: every stage works, and nothing is foretold; everything is in {folder}"]
    paces = {"training": found.train_tokens_per_second, "generation, a device": found.generate_tokens_per_second}
    told = [f"{name}: {pace:.4g} tokens a second" for name, pace in paces.items() if pace]
    quotes = f"`harness plan` quotes these hours for {found.recipe} on {found.machine.name}; " if is_quoted else ""
    return [*told, f"{quotes}everything is in {folder}"]
