"""FSDP2 as accelerate runs it, over gloo: what several processes compute is what one does, and a sharded state fits any number of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import MachineError
from tests.sharded_processes import Job, train_sharded
from tests.stages.test_train import LEFT, inputs, machine, own_accelerator, read_log, spec, train

__all__ = ["inputs", "own_accelerator"]

STEPS = {"num_steps": 5, "optimizer": {"warmup_ratio": 0.0, "schedule": "constant"}, "learning_rate": 1e-4}
LORA = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "down_proj"]}
LOGGED = ("loss", "margin", "grad_norm", "logps/real", "logps/generated", "tokens", "learning_rate")


def tied(policy: Path, out: Path) -> Path:
    """A copy of the policy's stage whose input and output embeddings are one."""
    shutil.copytree(policy, out)
    config = out / "checkpoint" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": True}))
    weights = load_file(out / "checkpoint" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, out / "checkpoint" / "model.safetensors", metadata={"format": "pt"})
    return out


def job(roles: Mapping[str, Path], out: Path, stop_at: int | None = None, sharding: str = "fsdp2", **changes: Any) -> Job:
    out.mkdir(exist_ok=True)
    place = machine(sharding=sharding, micro_batch=1).model_dump(mode="json")
    return Job({role: str(path) for role, path in roles.items()}, str(out), spec(**STEPS, **changes), place, stop_at)


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, a folder a job; 'state' was stopped after its third step, and one and four processes continued copies."""
    root = tmp_path_factory.mktemp("sharded")
    of_tied = {**inputs, "policy": tied(inputs["policy"], root / "policy")}
    jobs = [
        job(inputs, root / "untied"),
        job(of_tied, root / "tied"),
        job(of_tied, root / "offloaded", sharding="fsdp2_offload"),
        job(inputs, root / "adapters", sharding="fsdp2_offload", lora=LORA),
        job(inputs, root / "bf16", precision="bf16"),
        job(inputs, root / "state", stop_at=2),
    ]
    train_sharded(2, jobs, root)
    for num in (1, 4):
        shutil.copytree(root / "state", root / f"state{num}")
    train_sharded(1, [job(inputs, root / "bf16 of one", precision="bf16"), job(inputs, root / "state1")], root)
    train_sharded(4, [job(inputs, root / "state4")], root)
    return root


def assert_same(out: Path, expected: Path) -> None:
    """Losses to 1e-5 nats, what else is logged to 1e-4 of its size, weights to 1e-5."""
    log, whole = read_log(out), read_log(expected)
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in whole], abs=1e-5)
    for value in LOGGED:
        assert [line[value] for line in log] == pytest.approx([line[value] for line in whole], rel=1e-4, abs=1e-4), value
    weights, others = (load_file(path / "checkpoint" / "model.safetensors") for path in (out, expected))
    assert weights.keys() == others.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], atol=1e-5, rtol=1e-4)


def opponent(out: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = json.loads((out / "opponent_logps.json").read_text())["logps"]
    return found


@pytest.mark.parametrize("name", ["untied", "tied", "offloaded", "adapters"])
def test_two_processes_train_as_one(name: str, trained: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: five steps and the weights after them are those of one process, also of a tied model, also offloaded, also of adapters."""
    policy = trained / "policy" if name in ("tied", "offloaded") else inputs["policy"]
    adapters = {"lora": LORA} if name == "adapters" else {}
    train({**inputs, "policy": policy}, tmp_path / "one", spec(**STEPS, **adapters), machine(micro_batch=1))
    assert_same(trained / name, tmp_path / "one")
    assert opponent(trained / name) == opponent(tmp_path / "one")
    assert {path.name for path in (trained / name).iterdir()} == LEFT


def test_log_probabilities_keep_fp32_under_bf16(trained: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: the opponent's values of two processes are those of one bit for bit, and more than bf16 can say; the steps follow one
    whole process to bf16's precision (loss 0.05, gradient norm 10 %)."""
    two, one = trained / "bf16", trained / "bf16 of one"
    assert opponent(two) == opponent(one)
    values = torch.tensor(list(opponent(two).values()))
    assert (values != values.bfloat16().float()).float().mean() > 0.9
    assert_same(two, one)
    _, whole = train(inputs, tmp_path / "whole", spec(**STEPS, precision="bf16"), machine())
    assert [line["loss"] for line in read_log(two)] == pytest.approx([line["loss"] for line in whole], abs=0.05)
    assert [line["grad_norm"] for line in read_log(two)] == pytest.approx([line["grad_norm"] for line in whole], rel=0.1)


def test_a_sharded_state_fits_any_number_of_processes(trained: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: two processes, one of them told to stop in the third step, save after it; four and one continue as if undisturbed."""
    assert [path.name for path in (trained / "state" / "state").iterdir()] == ["step-00000003"]
    assert len(read_log(trained / "state")) == 3
    for num in (1, 4):
        assert_same(trained / f"state{num}", trained / "untied")
    shutil.copytree(trained / "state", tmp_path / "out")
    with pytest.raises(MachineError, match="state of step 3 was saved by processes that shard the weights"):
        train(inputs, tmp_path / "out", spec(**STEPS), machine())
