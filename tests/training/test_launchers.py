"""The machine files: their launchers are read by the real launcher's own parser, which is all of them that runs without the hardware."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import get_args_parser
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from harness.lm.group_logps import GroupScorer
from harness.machine import available, launcher, load
from tests import ROOT
from tests.families import SIZES, small_model

FSDP = ("FSDP_VERSION", "FSDP_AUTO_WRAP_POLICY", "FSDP_STATE_DICT_TYPE", "FSDP_RESHARD_AFTER_FORWARD", "FSDP_CPU_RAM_EFFICIENT_LOADING")


def parsed(name: str) -> Any:
    """The launcher's options as accelerate understands them; it exits on an option it does not know."""
    words = launcher(load(name), "PYTHON")
    assert words[:3] == ["PYTHON", "-m", "accelerate.commands.launch"]
    return launch_command_parser().parse_args([*words[3:], "-m", "harness", "stage", "DIR"])


@pytest.mark.parametrize("name", sorted(available()))
def test_every_machine_file_loads_under_its_name(name: str) -> None:
    """Promise: a machine is called what its file is called, and says so where nobody has run it."""
    machine = load(name)
    assert machine.name == name
    assert machine.device == "cpu" or "not run by us" in machine.summary


def test_fsdp2_on_one_node() -> None:
    """Promise: eight processes, FSDP2 by transformer layer, our stage as the program."""
    found = parsed("a100x8")
    assert (found.num_processes, found.use_fsdp, str(found.fsdp_version)) == (8, True, "2")
    assert [found.training_script, *found.training_script_args] == ["PYTHON", "-m", "harness", "stage", "DIR"]


def test_zero3_on_one_node() -> None:
    """Promise: eight processes, ZeRO stage 3, weights gathered when saved, bf16 left to our autocast."""
    found = parsed("a100x8-zero3")
    assert (found.num_processes, found.use_deepspeed, int(found.zero_stage)) == (8, True, 3)
    assert (found.zero3_save_16bit_model, found.zero3_init_flag, found.mixed_precision) == ("true", "false", "no")
    assert [found.training_script, *found.training_script_args] == ["PYTHON", "-m", "harness", "stage", "DIR"]


def test_two_nodes_get_what_one_node_s_launcher_would_set(tmp_path: Path) -> None:
    """Promise: under a stand-in `srun`, each node starts torchrun for eight processes at the first node, with accelerate's variables."""
    machine = load("a100x8-two-nodes")
    (tmp_path / "srun").write_text('#!/bin/bash\nshift 2\nexec "$@"\n')
    (tmp_path / "scontrol").write_text("#!/bin/bash\nprintf 'first\\nsecond\\n'\n")
    (tmp_path / "python").write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    command = [*launcher(machine, str(tmp_path / "python")), "-m", "harness", "stage", "a DIR"]
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "first,second"}
    lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[:2] == ["-m", "torch.distributed.run"]
    found = get_args_parser().parse_args(lines[2:])
    assert (found.nnodes, found.nproc_per_node, found.rdzv_endpoint, found.rdzv_id) == ("2", "8", "first:29500", "7")
    assert (found.module, found.training_script, found.training_script_args) == (True, "harness", ["stage", "a DIR"])
    one_node = prepare_multi_gpu_env(parsed("a100x8"))
    assert {name: machine.env[name] for name in FSDP} == {name: one_node[name] for name in FSDP}


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
