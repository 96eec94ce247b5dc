"""Where a recipe runs. Nothing here may change a number beyond floating-point noise, so nothing here enters a fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.config import Strict, find, load_attribute, shipped
from harness.errors import MachineError, RecipeError
from harness.recipe import Recipe

StageKind = Literal["model", "prompts", "preferences", "generate", "train", "evaluate"]
MACHINES_DIR = shipped("machines")


class Machine(Strict):
    """Devices, batch sizes per device, and how training is launched.

    `micro_batch` counts pairs per device and forward pass. `launcher` is the command put before `-m harness stage DIR` of a
    training stage: '{python}' is the interpreter, '{num_devices}' all devices, '{num_nodes}' and '{node_devices}' the nodes and the devices
    of each. Its processes keep a copy of the weights each, or divide weights, gradients and
    optimizer state among them: `sharding` 'fsdp2', or 'fsdp2_offload', where they wait in host memory while they are not used.
    `fork_stages` imports the libraries once a run and forks each stage from there, which a machine with CUDA cannot. `trackers` get every
    step's metrics beside `log.jsonl`. A judge's endpoint is asked `judge_threads` things at a time; a request that fails or takes over
    `judge_timeout_seconds` is asked again up to `judge_retries` times.
    `peak_tflops` (per device, at the training precision) is what a step's utilisation is measured against; it, `mfu` and
    `generate_tokens_per_second` (per device, of a model of 1e9 parameters) feed estimates.

    `python` names the interpreter of a kind of stage ('generate', 'train', 'evaluate') where it is not this one; harness must be
    installed there too. `vllm` holds arguments of `vllm.LLM` (harness/components/engines/vllm.py lists which).

    Generation runs `num_replicas` engines, each on `tensor_parallel` devices (where not stated, as many as a node's GPUs allow): as
    processes of this node, or as actors of the Ray cluster
    that RAY_ADDRESS names (of this node where it names none). lm-eval's tasks are shared out likewise, one device each. `replica_env`
    gives each process variables of its own; without it each sees its own share of the CUDA devices. `server` is the base URL of the
    server that an `openai_api` recipe generates with.
    """

    name: str
    summary: str
    device: Literal["cpu", "cuda"] = "cpu"
    num_devices: int = Field(default=1, gt=0)
    num_nodes: int = Field(default=1, gt=0)
    num_threads: int | None = None
    micro_batch: int = Field(default=8, gt=0)
    opponent_batch: int = Field(default=16, gt=0)
    generate_batch: int = Field(default=32, gt=0)
    generate_shard: int = Field(default=256, gt=0)
    evaluate_batch: int = Field(default=4, gt=0)
    judge_threads: int = Field(default=8, gt=0)
    judge_retries: int = Field(default=5, ge=0)
    judge_timeout_seconds: float = Field(default=180.0, gt=0)
    gradient_checkpointing: bool = False
    checkpoint_every_seconds: float = 600.0
    fork_stages: bool = False
    launcher: tuple[str, ...] = ("{python}",)
    sharding: Literal["none", "fsdp2", "fsdp2_offload"] = "none"
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    env: dict[str, str] = {}
    python: dict[StageKind, str] = {}
    vllm: dict[str, bool | int | float | str] = {}
    tensor_parallel: int = Field(default=1, gt=0)
    num_replicas: int = Field(default_factory=lambda stated: _one_a_device(stated), gt=0)
    replicas_on: Literal["node", "ray"] = "node"
    replica_env: tuple[dict[str, str], ...] = ()
    server: str | None = None
    peak_tflops: float
    mfu: float = 0.3
    generate_tokens_per_second: float
    memory_gb: float


def _one_a_device(stated: dict[str, Any]) -> int:
    """Engines on the GPUs of a node: as many as `tensor_parallel` allows; one on CPUs."""
    needed = {"num_devices", "num_nodes", "tensor_parallel"}
    if stated.get("device") != "cuda" or not needed <= stated.keys():
        return 1
    return max(int(stated["num_devices"] // stated["num_nodes"] // stated["tensor_parallel"]), 1)


def launcher(machine: Machine, python: str) -> list[str]:
    """The words before `-m harness stage DIR` of a training stage, their templates filled in."""
    known = {"python": python, "num_devices": machine.num_devices, "num_nodes": machine.num_nodes}
    return [part.format(**known, node_devices=machine.num_devices // machine.num_nodes) for part in machine.launcher]


def load(name_or_file: str) -> Machine:
    """The machine called `name_or_file` in machines/, or the `machine` of a Python file."""
    path = find(name_or_file, available(), "machine")
    machine = load_attribute(path, "machine")
    if not isinstance(machine, Machine):
        raise RecipeError(f"{path.name}: `machine` is a {type(machine).__name__}, expected a harness.machine.Machine")
    return machine


def available() -> dict[str, Path]:
    """{machine name: file} of machines/."""
    return {path.stem.replace("_", "-"): path for path in sorted(MACHINES_DIR.glob("*.py")) if path.stem != "__init__"}


def check(machine: Machine, recipe: Recipe) -> None:
    """Raise `MachineError` where the machine contradicts itself or cannot deal a global batch of `recipe` evenly to its devices."""
    if machine.fork_stages and machine.device == "cuda":
        raise MachineError(f"machine {machine.name!r} forks its stages, which CUDA does not survive; remove fork_stages from it")
    tunings = {"pretraining": recipe.pretraining, "sft": recipe.sft, **recipe.controls, **recipe.rivals}
    batches = {f"{row}.global_batch_size": tuning.global_batch_size for row, tuning in tunings.items() if tuning}
    for field, batch in {"global_batch_size": recipe.global_batch_size, **batches}.items():
        if batch % machine.num_devices:
            raise MachineError(
                f"{recipe.name}'s {field} of {batch} pairs cannot be divided among the {machine.num_devices} devices of machine "
                f"{machine.name!r}; use a machine whose number of devices divides {batch}"
            )
