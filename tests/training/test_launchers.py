"""The machine files: their launchers are read by torchrun's own parser, which is all of them that runs without the hardware."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch.distributed.run import get_args_parser
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from harness.lm.group_logps import GroupScorer
from harness.machine import available, launcher, load
from tests import ROOT
from tests.families import SIZES, small_model

STAGE = ("-m", "harness", "stage", "DIR")


def torchrun_options(words: Sequence[str], python: str) -> Any:
    """What torchrun reads in a launcher of ours and the stage behind it; it exits on an option it does not know."""
    assert list(words[:3]) == [python, "-m", "harness.training.launch"]
    found = get_args_parser().parse_args([*words[3:], *STAGE])
    assert (found.module, found.training_script, found.training_script_args) == (True, "harness", ["stage", "DIR"])
    return found


RUN_ON_GPUS = {"h100x1-small"}
"""Machines with GPUs that a run was made on (docs/hardware.md)."""


@pytest.mark.parametrize("name", sorted(available()))
def test_every_machine_file_loads_under_its_name(name: str) -> None:
    """Promise: a machine is called what its file is called, and says so where nobody has run it."""
    machine = load(name)
    assert machine.name == name
    assert machine.device == "cpu" or name in RUN_ON_GPUS or "not run by us" in machine.summary


def test_eight_processes_on_one_node() -> None:
    """Promise: eight processes of one node, our stage as the program, weights sharded."""
    machine = load("a100x8")
    found = torchrun_options(launcher(machine, "train", "PYTHON"), "PYTHON")
    assert (found.standalone, found.nproc_per_node, machine.num_devices, machine.sharding) == (True, "8", 8, "fsdp2")


@pytest.mark.parametrize(("name", "num_nodes"), [("a100x8-two-nodes", 2), ("slurm-a100x8-two-nodes", 2), ("slurm-ray", 4)])
def test_several_nodes_start_one_torchrun_each(name: str, num_nodes: int, tmp_path: Path) -> None:
    """Promise: under a stand-in `srun`, each node starts torchrun for its eight processes, and all meet at the first node."""
    machine = load(name)
    num_options = list(machine.launcher).index("bash") - 1
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=64"} <= set(machine.launcher[1 : num_options + 1])
    (tmp_path / "srun").write_text(f'#!/bin/bash\nshift {num_options}\nexec "$@"\n')
    (tmp_path / "scontrol").write_text("#!/bin/bash\nprintf 'first\\nsecond\\n'\n")
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf \'%s\\n\' "$0" "$@"\n')
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    command = [*launcher(machine, "train", str(python)), "-m", "harness", "stage", "DIR"]
    variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "first,second", "MAIN_HOST": "first"}
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
    lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    found = torchrun_options(lines[: -len(STAGE)], str(python))
    assert (found.nnodes, found.nproc_per_node, found.rdzv_endpoint, found.rdzv_id) == (str(num_nodes), "8", "first:29500", "7")
    assert (machine.num_devices, machine.sharding) == (8 * num_nodes, "fsdp2")


def test_fsdp2_shards_layer_by_layer() -> None:
    """Promise: accelerate's wrap policy finds the decoder layers inside the scorer; without them it would gather all weights at once."""
    scorer = GroupScorer(small_model(LlamaConfig(**SIZES)))
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True)
    policy = fsdp2_prepare_auto_wrap_policy(plugin, scorer)
    assert policy is not None
    wrapped = [module for module in scorer.modules() if policy(module)]
    assert [type(module) for module in wrapped] == [LlamaDecoderLayer] * SIZES["num_hidden_layers"]


SHARDED = """
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig
from harness.lm.group_logps import GroupScorer
from tests.families import SIZES, small_model
from tests.lm.test_group_logps import random_groups
dist.init_process_group("gloo")
groups = random_groups()
plain, scorer = (GroupScorer(small_model(LlamaConfig(**SIZES))) for _ in range(2))
mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
for layer in scorer.model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(scorer, mesh=mesh)
for some in (plain, scorer):
    some(groups).square().sum().backward()
for (name, ours), (_, expected) in zip(scorer.named_parameters(), plain.named_parameters()):
    torch.testing.assert_close(ours.grad.full_tensor(), expected.grad, rtol=1e-4, atol=1e-4 * float(expected.grad.abs().max()), msg=name)
dist.barrier()  # a process that leaves while the other still talks aborts it
dist.destroy_process_group()
"""


def test_the_scorer_can_be_sharded(tmp_path: Path) -> None:
    """Promise: under torch's own `fully_shard` on two processes the gradients are those of one whole model, kept logits included."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "sharded.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-2000:]
