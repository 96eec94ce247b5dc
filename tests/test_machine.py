"""A machine says where, never what: its values are checked, and none enters an identity."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from harness import machine as machines
from harness.config import build
from harness.errors import MachineError, RecipeError
from harness.machine import Machine, StageKind, check, launcher, load, slots_taken
from harness.recipe import Finetuning, Optimizer, Recipe, replace
from harness.recipe import load as load_recipe
from tests import ROOT

ZEPHYR = load_recipe("zephyr-7b")


def with_devices(num: int) -> Machine:
    return load("a100x8").model_copy(update={"name": f"a100x{num}", "num_devices": num})


@pytest.mark.parametrize("name", sorted(machines.available()))
def test_shipped_machines_load_under_their_files_name(name: str) -> None:
    """`--machine NAME` finds machines/NAME.py, which describes that machine."""
    assert load(name).name == name


def test_another_number_of_devices_is_right_everywhere() -> None:
    """A copy with fewer GPUs starts as many processes and engines; a file may also state fewer engines, and then they stay."""
    four = load("a100x8").model_copy(update={"num_devices": 4})
    assert re.search(r"--(num_processes|nproc-per-node)=4\b", " ".join(launcher(four, "train", "python")))
    assert (load("a100x8").num_replicas, four.num_replicas) == (8, 4)
    assert four.model_copy(update={"tensor_parallel": 2}).num_replicas == 2
    assert four.model_copy(update={"num_replicas": 1}).model_copy(update={"num_devices": 8}).num_replicas == 1
    assert load("a100x8-two-nodes").num_replicas == 8


@pytest.mark.parametrize("num", [1, 2, 8, 64])
def test_batch_of_64_fits_devices_that_divide_it(num: int) -> None:
    """The paper's batch of 64 runs on any number of devices that divides it."""
    check(with_devices(num), ZEPHYR)


@pytest.mark.parametrize("num", [3, 6, 128])
def test_batch_that_cannot_be_divided_is_refused(num: int) -> None:
    """Other numbers are refused with both numbers and what to do; the batch never becomes another one silently."""
    with pytest.raises(MachineError, match=f"zephyr-7b's global_batch_size of 64 pairs cannot be divided among the {num} devices"):
        check(with_devices(num), ZEPHYR)


def test_batches_of_finetunings_are_checked_too() -> None:
    """A control's own batch is named by its field."""
    control = Finetuning(learning_rate=1e-6, global_batch_size=12, optimizer=Optimizer())
    recipe: Recipe = replace(ZEPHYR, name="mine", controls={"control": control})
    with pytest.raises(MachineError, match=r"control\.global_batch_size of 12 pairs cannot be divided among the 8 devices"):
        check(with_devices(8), recipe)


def test_misspelt_field_and_file_get_a_suggestion(tmp_path: Path) -> None:
    """A wrong field names the near one, in a file with the file's name; a file without a machine says what was expected."""
    with pytest.raises(RecipeError, match="Machine has no field 'micro_bach'; did you mean 'micro_batch'"):
        build(Machine, **{**load("cpu").model_dump(), "micro_bach": 1})
    file = tmp_path / "mine.py"
    file.write_text("from harness.machine import load\nmachine = load('cpu').model_copy(update={'num_devcies': 2})\n")
    with pytest.raises(RecipeError, match=r"mine\.py: Machine has no field 'num_devcies'; did you mean 'num_devices'"):
        load(str(file))
    file.write_text("machine = 'cpu'\n")
    with pytest.raises(RecipeError, match=r"`machine` is a str, expected a harness\.machine\.Machine"):
        load(str(file))


POSITIVE = ("num_devices", "num_threads", "micro_batch", "generate_shard", "evaluate_batch", "peak_tflops", "mfu", "memory_gb")


@pytest.mark.parametrize("field", POSITIVE)
def test_counts_and_speeds_are_positive(field: str) -> None:
    """A batch, a device count or a speed of 0 is refused where it is written, not where it divides."""
    with pytest.raises(RecipeError, match=rf"Machine\.{field}: Input should be greater than 0 \(found 0\)"):
        load("cpu").model_copy(update={field: 0})


def test_thread_counts_that_torch_cannot_take_are_refused() -> None:
    """An absurd number of threads is refused where it is written; it would end every stage with torch's traceback."""
    with pytest.raises(RecipeError, match=r"Machine\.num_threads: Input should be less than or equal to 4096"):
        load("cpu").model_copy(update={"num_threads": 10**9})


def test_a_kind_that_is_not_named_takes_all_slots_only_where_it_uses_devices() -> None:
    """On a node of which evaluations take a GPU each, training has all GPUs to itself, and copying prompts empties none of them."""
    machine = load("a100x8").model_copy(update={"slots": 8, "slots_of": {"evaluate": 1, "generate": 16}})
    taken = {kind: slots_taken(machine, kind) for kind in get_args(StageKind)}
    assert taken == {"train": 8, "generate": 8, "evaluate": 1, **dict.fromkeys(("model", "prompts", "preferences", "verdicts"), 1)}
    with pytest.raises(RecipeError, match=r"slots_of\.train: Input should be greater than 0"):
        machine.model_copy(update={"slots_of": {"train": 0}})


@pytest.mark.parametrize("slots", [8, 16])
def test_a_training_beside_other_stages_on_its_devices_is_refused(slots: int) -> None:
    """A training starts a process on every GPU, so a share of the slots is no share of the cards; on one card, or on CPUs, it is meant."""
    machine = load("a100x8").model_copy(update={"slots": slots, "slots_of": {"train": slots, "evaluate": 1}})
    check(machine, ZEPHYR)
    with pytest.raises(MachineError, match=rf"gives a training 4 of {slots} slots, but it runs on all 8 devices; remove 'train'"):
        check(machine.model_copy(update={"slots_of": {"train": 4, "evaluate": 1}}), ZEPHYR)
    for shared in ("h100x1-small", "cpu-two-stages"):
        check(load(shared), load_recipe("tiny"))


ACCELERATE = """
compute_environment: LOCAL_MACHINE
distributed_type: '{kind}'
machine_rank: 0
mixed_precision: fp16
num_machines: 1
num_processes: {processes}
use_cpu: {cpu}
"""


def configured(folder: Path, kind: str, processes: int = 1, extra: str = "") -> Machine:
    """The machine `cpu`, or `a100x8`, started as a file of `accelerate config` says."""
    path = folder / "default_config.yaml"
    path.write_text(ACCELERATE.format(kind=kind, processes=processes, cpu="true" if kind == "NO" else "false") + extra)
    return machines.with_accelerate(load("cpu" if kind == "NO" else "a100x8"), path)


def test_a_configuration_of_accelerate_is_a_launcher(tmp_path: Path) -> None:
    """Promise: processes, nodes and FSDP are the file's; accelerate's own parser reads the launcher and our stage behind it."""
    from accelerate.commands.launch import launch_command_parser

    four = configured(tmp_path, "FSDP", 4, "fsdp_config:\n  fsdp_offload_params: true\n")
    assert (four.num_devices, four.num_nodes, four.num_replicas, four.sharding) == (4, 1, 4, "fsdp2_offload")
    assert configured(tmp_path, "MULTI_GPU", 2).sharding == "none"
    words = [*launcher(four, "train", "python"), "-m", "harness", "stage", "DIR"]
    assert words[:3] == ["python", "-m", "accelerate.commands.launch"]
    found = launch_command_parser().parse_args(words[3:])
    assert (found.module, found.training_script, found.training_script_args) == (True, "harness", ["stage", "DIR"])
    assert found.config_file == str(tmp_path / "default_config.yaml")


def test_it_starts_what_a_stage_is_started_as(tmp_path: Path) -> None:
    """Promise: `accelerate launch` with that file really runs the package's command line."""
    command = [*launcher(configured(tmp_path, "NO"), "train", sys.executable), "-m", "harness", "--version"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("harness ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("- a", "is no accelerate configuration"), ("a: [", "is no accelerate configuration"), (None, "is no accelerate configuration"),
     (ACCELERATE.format(kind="DEEPSPEED", processes=8, cpu="false"), "asks for DEEPSPEED; expected NO, MULTI_GPU, MULTI_CPU or FSDP")],
    ids=["a list", "no YAML", "absent", "DeepSpeed"],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, text: str | None, reason: str) -> None:
    """One line names the file and what was expected."""
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MachineError, match=reason):
        machines.with_accelerate(load("cpu"), path)


def test_a_tracker_is_added_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: `--track` adds to the machine's own, once each; one that is not installed is refused with what installs it."""
    monkeypatch.setattr(machines, "find_spec", lambda name: None if name == "trackio" else object())
    mine = load("cpu").model_copy(update={"trackers": ("wandb",)})
    assert machines.with_tracker(machines.with_tracker(mine, "wandb"), "tensorboard").trackers == ("wandb", "tensorboard")
    assert machines.with_tracker(mine, None) == mine
    with pytest.raises(MachineError, match=r"trackio is not installed; pip install 'harness-spin\[trackers\]'"):
        machines.with_tracker(mine, "trackio")
