"""Training of a two-layer model: what it computes, what it refuses, and that a killed run ends as an undisturbed one."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import harness.stages.train
import harness.training.checkpoints
import harness.training.global_batch
import harness.training.opponent
from harness.artifact import DONE_FILE, Record
from harness.contracts import Demonstration
from harness.contracts.stage_specs import TrainSpec
from harness.errors import STOPPED_EXIT, InputError, MachineError, RecipeError, TrainingError
from harness.files import dump, hash_file, read_model
from harness.lm.group_logps import Group, GroupScorer, group_logps
from harness.machine import Machine
from harness.recipe import Optimizer
from harness.training.batches import plan_steps
from harness.training.opponent import keys_of
from harness.training.pairs import Encoding, Pair, encode_pair, write_demonstrations
from harness.training.policy import load_policy, merged
from tests import ROOT
from tests.checkpoints import MACHINE
from tests.small_disk import enlarge, small_disk
from tests.tiny_checkpoints import byte_checkpoint

NUM_PAIRS = 10
CLOCK = ("seconds", "tokens_per_second", "mfu", "peak_memory_gb")
LEFT = {"checkpoint", "log.jsonl", "opponent_logps.json", "audit.json", "samples", "weights.json"}


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """accelerate's process-wide state would leak from one test's settings to the next."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy, ten prompts and one response to each, as finished stages."""
    root = tmp_path_factory.mktemp("inputs")
    byte_checkpoint(root / "policy" / "checkpoint")
    rows = [Demonstration(f"p{i}", [{"role": "user", "content": "q" * (i + 1)}], "real " + "xy" * i) for i in range(NUM_PAIRS)]
    (root / "prompts").mkdir()
    write_demonstrations(root / "prompts" / "prompts.jsonl", rows)
    (root / "responses0" / "responses").mkdir(parents=True)
    lines = [{"prompt_id": row.prompt_id, "response": "own " + "z" * (11 - i), "finish_reason": "stop"} for i, row in enumerate(rows)]
    (root / "responses0" / "responses" / "00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for role in ("policy", "prompts", "responses0"):
        record = Record(fingerprint=role, outputs={}, content=role, seconds=1.0, peak_memory_mb=1.0)
        (root / role / DONE_FILE).write_bytes(dump(record))
    return {role: root / role for role in ("policy", "prompts", "responses0")}


def spec(**changes: Any) -> dict[str, Any]:
    values = TrainSpec(
        objective="spin",
        parameters={},
        grouping="pairs",
        accepted_checks=(),
        lora=None,
        beta=0.1,
        learning_rate=1e-3,
        optimizer=Optimizer(name="rmsprop", warmup_ratio=0.25),
        schedule_epochs=2,
        stop_after_epochs=2,
        num_steps=None,
        global_batch_size=4,
        template="alpaca",
        tokenization="modern",
        max_length=96,
        max_prompt_length=64,
        precision="fp32",
        seed=3,
    ).model_dump(mode="json")
    return {**values, **changes}


def machine(**changes: Any) -> Machine:
    return MACHINE.model_copy(update={"micro_batch": 2, **changes})


def train(
    inputs: dict[str, Path], out: Path, spec: dict[str, Any], machine: Machine
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The trained weights and the log."""
    out.mkdir(exist_ok=True)
    harness.stages.train.run(spec, inputs, out, machine)
    return load_file(out / "checkpoint" / "model.safetensors"), read_log(out)


def read_log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def without_clock(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in log]


def test_what_a_run_leaves(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: four steps of ten pairs in fours (the rest dropped), ln 2 first, the loss falls, and no temporary state stays."""
    before = load_file(inputs["policy"] / "checkpoint" / "model.safetensors")
    after, log = train(inputs, tmp_path / "out", spec(), machine())
    assert [line["step"] for line in log] == [0, 1, 2, 3]
    assert [line["epoch"] for line in log] == [0, 0, 1, 1]
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[0]["margin"] == pytest.approx(0, abs=1e-3)
    assert log[-1]["rewards/accuracy"] == 1.0
    assert [line["learning_rate"] for line in log] == pytest.approx([0.0, 1e-3, 2 / 3 * 1e-3, 1 / 3 * 1e-3])
    assert after.keys() == before.keys()
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.dtype == torch.float32 for weight in after.values())
    assert {path.name for path in (tmp_path / "out").iterdir()} == LEFT
    AutoTokenizer.from_pretrained(tmp_path / "out" / "checkpoint")
    assert str(tmp_path) not in (tmp_path / "out" / "checkpoint" / "config.json").read_text()


def test_a_step_is_the_plain_computation(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: one step equals autograd on the whole batch with torch's RMSProp; clipping and schedule as the recipe says."""
    optimizer = {"name": "rmsprop", "warmup_ratio": 0.0, "max_grad_norm": 0.5, "weight_decay": 0.01, "schedule": "constant"}
    after, log = train(inputs, tmp_path / "out", spec(num_steps=1, global_batch_size=10, optimizer=optimizer), machine(micro_batch=5))

    model = AutoModelForCausalLM.from_pretrained(inputs["policy"] / "checkpoint", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(inputs["policy"] / "checkpoint")
    groups = []
    for i in range(NUM_PAIRS):
        prompt = [{"role": "user", "content": "q" * (i + 1)}]
        encoded = encode_pair(
            tokenizer, Pair("", prompt, "real " + "xy" * i, "own " + "z" * (11 - i), "stop"), Encoding("alpaca", "modern", 96, 64)
        )
        groups.append(Group(encoded.prompt.ids, [r.ids for r in encoded.responses]))
    policy = group_logps(model, groups)
    margin = (policy - policy.detach()) @ torch.tensor([1.0, -1.0])
    torch.autograd.backward(torch.log1p(torch.exp(-0.1 * margin)).mean())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.99, weight_decay=0.01).step()

    assert log[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    for name, weight in model.state_dict().items():
        if name in after:
            torch.testing.assert_close(after[name], weight, atol=2e-5, rtol=1e-4)


def test_micro_batches_and_checkpointing_do_not_change_the_result(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: what the machine chooses (micro-batch, recomputation) changes nothing but float noise, for both objectives."""
    for objective in ("spin", "sft"):
        roles = inputs if objective == "spin" else {role: inputs[role] for role in ("policy", "prompts")}
        recipe = spec(objective=objective, optimizer={"name": "adamw"}, learning_rate=1e-4)
        machines = (machine(micro_batch=1), machine(micro_batch=64), machine(micro_batch=3, gradient_checkpointing=True))
        logs = [train(roles, tmp_path / f"{objective}{i}", recipe, some)[1] for i, some in enumerate(machines)]
        for log in logs[1:]:
            assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in logs[0]], rel=1e-4)
            assert [line["grad_norm"] for line in log] == pytest.approx([line["grad_norm"] for line in logs[0]], rel=1e-3)
            assert [line["tokens"] for line in log] == [line["tokens"] for line in logs[0]]


def test_fine_tuning_has_no_opponent(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: with one branch nothing is scored beforehand, and what does not exist is None in the log, not 0."""
    roles = {role: inputs[role] for role in ("policy", "prompts")}
    _, log = train(roles, tmp_path / "out", spec(objective="sft", num_steps=5, stop_after_epochs=1), machine())
    assert len(log) == 5
    assert log[-1]["loss"] < log[1]["loss"]
    assert log[0]["rewards/real"] is None
    assert log[0]["logps/generated"] is None
    assert log[0]["logps/real"] < 0
    assert not (tmp_path / "out" / "opponent_logps.json").exists()


def test_two_of_six_scheduled_epochs_is_not_two_of_two(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: the learning rate follows the scheduled epochs, not those run."""
    _, log = train(inputs, tmp_path / "out", spec(schedule_epochs=6, optimizer={"warmup_ratio": 0.0}), machine())
    assert [line["learning_rate"] for line in log] == pytest.approx([1e-3 * (12 - step) / 12 for step in range(4)])


def test_stopped_at_any_step_ends_in_the_same_bytes(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: an exception in any step or while saving any state, then the same launch: same weights bit for bit, same log."""
    always = machine(checkpoint_every_seconds=0.0)
    _, expected = train(inputs, tmp_path / "undisturbed", spec(), always)
    places = [(harness.stages.train, "_step", n) for n in range(4)] + [(harness.training.checkpoints, "_flush", n) for n in range(5)]
    for number, (module, name, when) in enumerate(places):
        out = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing_at(getattr(module, name), when))
            with pytest.raises(KeyboardInterrupt):
                train(inputs, out, spec(), always)
        _, log = train(inputs, out, spec(), always)
        assert without_clock(log) == without_clock(expected)
        for path in ("checkpoint/model.safetensors", "checkpoint/config.json", "opponent_logps.json"):
            assert hash_file(out / path) == hash_file(tmp_path / "undisturbed" / path), (name, when, path)
        assert {path.name for path in out.iterdir()} == LEFT


@pytest.mark.parametrize("objective", ["spin", "sft"])
def test_killed_twice_within_one_epoch(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str) -> None:
    """Promise: two ends in one epoch, before a new state and after one, by SIGTERM or at once: log and files of an undisturbed run.

    'sft' is what pretraining runs.
    """
    roles = inputs if objective == "spin" else {role: inputs[role] for role in ("policy", "prompts")}
    settings = spec(objective=objective, global_batch_size=2)  # five steps an epoch
    _, expected = train(roles, tmp_path / "undisturbed", settings, machine())
    paths = sorted(path.relative_to(tmp_path / "undisturbed") for path in (tmp_path / "undisturbed").rglob("*") if path.is_file())
    step = harness.stages.train._step
    ends = [(failing_at, 2, failing_at, 0), (failing_at, 2, failing_at, 2), (told_to_stop, 1, failing_at, 1)]
    for number, (first, when, second, later) in enumerate(ends):
        out = tmp_path / str(number)
        for end, call in ((first, when), (second, later)):
            with monkeypatch.context() as patch:
                patch.setattr(harness.stages.train, "_step", end(step, call))
                with pytest.raises((KeyboardInterrupt, SystemExit)):
                    train(roles, out, settings, machine(checkpoint_every_seconds=0.0))
        _, log = train(roles, out, settings, machine())
        assert without_clock(log) == without_clock(expected)
        assert sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()) == paths
        for path in set(paths) - {Path("log.jsonl")}:
            assert hash_file(out / path) == hash_file(tmp_path / "undisturbed" / path), (number, path)


def failing_at(function: Callable[..., Any], when: int) -> Callable[..., Any]:
    """`function`, interrupted at its call number `when`."""
    calls = iter(range(1_000_000))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == when:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return interrupted


def launch(
    inputs: dict[str, Path], out: Path, some: Machine, *, before: str = "", command: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The stage in a process of its own, after the statements `before`."""
    out.mkdir(exist_ok=True)
    script = out.parent / f"{out.name}.py"
    script.write_text(
        "from pathlib import Path\nimport harness.stages.train, harness.training.checkpoints\nfrom harness.machine import Machine\n"
        f"{before}\n"
        f"inputs = {{role: Path(path) for role, path in { ({role: str(path) for role, path in inputs.items()})!r}.items()}}\n"
        f"harness.stages.train.run({spec()!r}, inputs, Path({str(out)!r}), Machine.model_validate({some.model_dump()!r}))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*(command or (sys.executable,)), str(script)], env=env, capture_output=True, text=True, timeout=120)


def test_sigterm_saves_and_leaves(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: SIGTERM in a step or in the opponent's pass ends with code 75 after all that was done is saved, and the run continues."""
    _, expected = train(inputs, tmp_path / "undisturbed", spec(), machine())
    for module, name, saved in ((harness.stages.train, "_step", "state"), (harness.training.opponent, "_score", "opponent_logps.json")):
        out = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(module, name, told_to_stop(getattr(module, name)))
            with pytest.raises(SystemExit) as left:
                train(inputs, out, spec(), machine())
        assert left.value.code == STOPPED_EXIT
        assert (out / saved).exists()
        _, log = train(inputs, out, spec(), machine())
        assert without_clock(log) == without_clock(expected)
        weights = "checkpoint/model.safetensors"
        assert hash_file(out / weights) == hash_file(tmp_path / "undisturbed" / weights)


def told_to_stop(function: Callable[..., Any], when: int = 1) -> Callable[..., Any]:
    """`function`, told to stop at its call number `when`."""
    calls = iter(range(1_000_000))

    def told(*args: Any) -> Any:
        if next(calls) == when:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args)

    return told


def test_a_full_disk_in_training_loses_nothing(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: no room for the second state is one line; with more room the same launch ends as if nothing had been."""
    always = machine(checkpoint_every_seconds=0.0)
    _, expected = train(inputs, tmp_path / "undisturbed", spec(), always)
    with small_disk(tmp_path / "disk", "200k") as disk:
        with pytest.raises(MachineError, match="disk full while writing state"):
            train(inputs, disk / "out", spec(), always)
        assert [path.name for path in (disk / "out" / "state").glob("step-*")] == ["step-00000001"]
        enlarge(disk, "10m")
        _, log = train(inputs, disk / "out", spec(), always)
        assert without_clock(log) == without_clock(expected)


def test_the_audit_is_made_once(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a continued launch does not tokenize all pairs again; one whose inputs were rebuilt does."""
    looks: list[int] = []
    audit = harness.stages.train.audit
    monkeypatch.setattr(harness.stages.train, "audit", lambda *args: looks.append(1) or audit(*args))
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 0))
            with pytest.raises(KeyboardInterrupt):
                train(inputs, tmp_path / "out", spec(), machine())
    assert len(looks) == 1
    other = tmp_path / "prompts"
    shutil.copytree(inputs["prompts"], other)
    (other / DONE_FILE).write_bytes(dump(Record(fingerprint="prompts", outputs={}, content="rebuilt", seconds=1.0, peak_memory_mb=1.0)))
    train({**inputs, "prompts": other}, tmp_path / "out", spec(), machine())
    assert len(looks) == 2


def test_the_share_of_weights_that_moved_in_bf16(inputs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Promise: counted weight by weight; steps too small for bf16 are warned of where bf16 is what the model will be used in."""
    before = load_file(inputs["policy"] / "checkpoint" / "model.safetensors")
    after, _ = train(inputs, tmp_path / "out", spec(), machine())
    changed = torch.cat([(before[name].bfloat16() != after[name].bfloat16()).flatten() for name in before]).float().mean()
    found = json.loads((tmp_path / "out" / "weights.json").read_text())["bf16_changed"]
    assert found == pytest.approx(float(changed), abs=1e-6)
    assert found > 0.1
    assert "warning" not in capfd.readouterr().err
    AcceleratorState._reset_state(reset_partial_state=True)
    train(inputs, tmp_path / "still", spec(learning_rate=1e-9, precision="bf16"), machine())
    assert json.loads((tmp_path / "still" / "weights.json").read_text())["bf16_changed"] < 0.01
    assert "warning: in bf16 this is nearly the model that it was" in capfd.readouterr().err


def test_pairs_beyond_the_context_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: a max_length that the model has no positions for is one line before anything is loaded."""
    with pytest.raises(RecipeError, match="max_length 5000 is beyond the model's context of 4096 tokens; lower max_length"):
        train(inputs, tmp_path / "out", spec(max_length=5000), machine())


def test_settings_of_other_launchers_do_not_count(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: what a user's accelerate configuration exports changes nothing; an engine it asks for is refused, not ignored."""
    _, expected = train(inputs, tmp_path / "expected", spec(), machine())
    AcceleratorState._reset_state(reset_partial_state=True)
    for name, value in {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "FSDP_VERSION": "1"}.items():
        monkeypatch.setenv(name, value)
    _, log = train(inputs, tmp_path / "out", spec(), machine())
    assert without_clock(log) == without_clock(expected)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(MachineError, match="ACCELERATE_USE_DEEPSPEED is set, but machine 'test' shards nothing"):
        train(inputs, tmp_path / "refused", spec(), machine())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")  # accelerate sets these itself; undone when the test ends
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    with pytest.raises(MachineError, match="machine 'test' shards the weights"):
        train(inputs, tmp_path / "refused", spec(), machine(sharding="fsdp2"))


def test_tied_embeddings_in_bf16_continue(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: shared input and output embeddings (SmolLM2) survive state and checkpoint; bf16 computes around fp32 weights."""
    policy = tmp_path / "policy"
    shutil.copytree(inputs["policy"], policy)
    config = json.loads((policy / "checkpoint" / "config.json").read_text())
    (policy / "checkpoint" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(policy / "checkpoint" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, policy / "checkpoint" / "model.safetensors", metadata={"format": "pt"})
    roles = {**inputs, "policy": policy}
    always = machine(checkpoint_every_seconds=0.0)
    expected, whole = train(roles, tmp_path / "undisturbed", spec(precision="bf16"), always)
    assert expected.keys() == weights.keys()
    assert whole[0]["loss"] == pytest.approx(0.693147, abs=0.02)
    assert all(weight.dtype == torch.float32 for weight in expected.values())
    with monkeypatch.context() as patch:
        patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 2))
        with pytest.raises(KeyboardInterrupt):
            train(roles, tmp_path / "out", spec(precision="bf16"), always)
    continued, log = train(roles, tmp_path / "out", spec(precision="bf16"), always)
    assert without_clock(log) == without_clock(whole)
    assert all(torch.equal(continued[name], expected[name]) for name in expected)


def test_killed_process_continues(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: SIGKILL between two states' swap, then the same launch ends in the same weights and log as without it."""
    always = machine(checkpoint_every_seconds=0.0)
    _, expected = train(inputs, tmp_path / "undisturbed", spec(), always)
    kill = (
        "import os, shutil, signal\ndelete = shutil.rmtree\ndef killing(path, **kwargs):\n"
        "    if 'step-' in str(path): os.kill(os.getpid(), signal.SIGKILL)\n    delete(path, **kwargs)\n"
        "harness.training.checkpoints.shutil.rmtree = killing"
    )
    assert launch(inputs, tmp_path / "out", always, before=kill).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "out" / "state").glob("step-*"))) == 2
    _, log = train(inputs, tmp_path / "out", spec(), always)
    assert without_clock(log) == without_clock(expected)
    for path in ("checkpoint/model.safetensors", "opponent_logps.json"):
        assert hash_file(tmp_path / "out" / path) == hash_file(tmp_path / "undisturbed" / path)


def test_two_processes_continue_what_one_began(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: two processes take half of every batch each, also from another world's state; log and weights are those of one."""
    always = machine(checkpoint_every_seconds=0.0)
    one, expected = train(inputs, tmp_path / "one", spec(), always)
    out = tmp_path / "two"
    with monkeypatch.context() as patch:
        patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 1))
        with pytest.raises(KeyboardInterrupt):
            train(inputs, out, spec(), always)
    (out / "opponent_logps.json").unlink()  # made again, by two
    world = "import accelerate\nassert accelerate.PartialState(cpu=True).num_processes == 2"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    finished = launch(inputs, out, machine(micro_batch=1, checkpoint_every_seconds=0.0), before=world, command=torchrun)
    assert finished.returncode == 0, finished.stderr[-2000:]
    two, log = load_file(out / "checkpoint" / "model.safetensors"), read_log(out)
    assert {path.name for path in out.iterdir()} == LEFT
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in expected], abs=1e-5)
    for name in ("margin", "grad_norm", "logps/real", "tokens", "learning_rate"):
        assert [line[name] for line in log] == pytest.approx([line[name] for line in expected], rel=1e-3, abs=1e-4), name
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-4, rtol=1e-3)


def test_opponent_is_scored_once(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: log-probabilities are kept under the same inputs, made again under others, and a missing one is absent, never 0."""
    out = tmp_path / "out"
    always = machine(checkpoint_every_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(harness.training.opponent, "_score", failing_at(harness.training.opponent._score, 2))
        with pytest.raises(KeyboardInterrupt):
            train(inputs, out, spec(), always)
    kept = json.loads((out / "opponent_logps.json").read_text())
    assert len(kept["logps"]) == 2 + 2
    assert all(value < -1 for pair in kept["logps"].values() for value in pair)
    with monkeypatch.context() as patch:
        patch.setattr(harness.training.opponent, "_score", failing_at(harness.training.opponent._score, 3))
        train(inputs, out, spec(), always)  # three of five batches were left, so a fourth call never comes
    whole = json.loads((out / "opponent_logps.json").read_text())
    assert len(whole["logps"]) == NUM_PAIRS
    assert kept["logps"].items() <= whole["logps"].items()
    assert harness.training.opponent._read(out / "opponent_logps.json", "other inputs") == {}


def with_company(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`GroupScorer.forward`, but what is scored together moves a log-probability by nats, as bf16 does on a GPU."""

    def moved(scorer: Any, groups: list[Group]) -> torch.Tensor:
        scores = forward(scorer, groups)
        others = groups[::-1]
        noise = [
            [float(len(groups) * len(own.branches[0]) + 3 * len(other.prompt)), 0.0] for own, other in zip(groups, others, strict=True)
        ]
        return scores + torch.tensor(noise)

    return moved


def test_bf16_opponents_are_scored_in_the_company_they_are_trained_in(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: in bf16 what is computed together moves a log-probability; it moves policy and opponent alike in every epoch, so that every
    margin stays 0 while the weights do, also where the micro-batch is another when the work goes on."""
    monkeypatch.setattr(GroupScorer, "forward", with_company(GroupScorer.forward))
    still = spec(precision="bf16", beta=5.0, learning_rate=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 0))
        with pytest.raises(KeyboardInterrupt):
            train(inputs, tmp_path / "out", still, machine(micro_batch=1))
    _, log = train(inputs, tmp_path / "out", still, machine())
    assert [line["epoch"] for line in log] == [0, 0, 1, 1]
    assert [line["margin"] for line in log] == [0.0] * 4
    assert log[-1]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_fp32_opponents_are_scored_once(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: fp32 has one value a group for all epochs, made in the first one's micro-batches; what that leaves out is scored too."""
    scored: list[list[str]] = []
    score = harness.training.opponent._score

    def watched(scorer: Any, groups: list[Group]) -> Any:
        scored.append(keys_of(groups, "fp32"))
        return score(scorer, groups)

    monkeypatch.setattr(harness.training.opponent, "_score", watched)
    _, log = train(inputs, tmp_path / "out", spec(beta=5.0), machine())
    assert [len(batch) for batch in scored] == [2, 2, 2, 2, 2]
    assert len({key for batch in scored for key in batch}) == NUM_PAIRS
    assert log[0]["margin"] == 0.0


def test_margins_that_cancel_out_are_noticed(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: opponents that are wrong by as much up as down stop the run before the first step, though the mean margin is 0."""
    score = harness.training.opponent._score

    def shaken(scorer: Any, groups: list[Group]) -> Any:
        return [(real + 3 * (-1) ** i, own) for i, (real, own) in enumerate(score(scorer, groups))]

    monkeypatch.setattr(harness.training.opponent, "_score", shaken)
    with pytest.raises(TrainingError, match=r"expected 0\.6931"):
        train(inputs, tmp_path / "out", spec(), machine())


def test_wrong_opponent_is_noticed(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: opponent log-probabilities that are not the starting policy's stop the run before the first step."""
    score = harness.training.opponent._score
    monkeypatch.setattr(harness.training.opponent, "_score", lambda scorer, groups: [(r - 3, own) for r, own in score(scorer, groups)])
    with pytest.raises(TrainingError, match=r"expected 0\.6931"):
        train(inputs, tmp_path / "out", spec(), machine())
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_state_of_other_inputs_is_not_continued(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: when an input was rebuilt with other contents, training starts over instead of mixing two runs."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 2))
        with pytest.raises(KeyboardInterrupt):
            train(inputs, out, spec(), machine(checkpoint_every_seconds=0.0))
    rebuilt = inputs["prompts"] / DONE_FILE
    original = rebuilt.read_bytes()
    rebuilt.write_bytes(dump(read_model(Record, rebuilt).model_copy(update={"content": "rebuilt"})))
    try:
        _, log = train(inputs, out, spec(), machine())
    finally:
        rebuilt.write_bytes(original)
    assert [line["step"] for line in log] == [0, 1, 2, 3]
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-4)


CHECKPOINT_DAMAGE: dict[str, Callable[[Path], Any]] = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "cut weights": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "an odd config": lambda folder: (folder / "config.json").write_text("[]"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "another tokenizer": lambda folder: os.truncate(folder / "tokenizer.json", 100),
    "nothing": lambda folder: [path.unlink() for path in folder.iterdir()],
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "no weights.json": lambda folder: (folder.parent / "weights.json").unlink(),
}


def test_a_damaged_checkpoint_is_not_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: what lies in an unfinished stage's checkpoint/ becomes its result only where it is whole; else the stage trains anew."""
    train(inputs, tmp_path / "undisturbed", spec(), machine())
    for name, damage in CHECKPOINT_DAMAGE.items():
        out = tmp_path / name
        shutil.copytree(tmp_path / "undisturbed", out)
        harness.stages.train.run(spec(), inputs, out, machine())  # whole, it is kept
        damage(out / "checkpoint")
        with pytest.raises(InputError, match=rf"{name}/checkpoint cannot be kept \(.*; remove .*checkpoint and run again") as told:
            harness.stages.train.run(spec(), inputs, out, machine())
        assert len(str(told.value).splitlines()) == 1, name
    shutil.rmtree(out / "checkpoint")
    train(inputs, out, spec(), machine())
    for path in ("checkpoint/model.safetensors", "weights.json"):
        assert hash_file(out / path) == hash_file(tmp_path / "undisturbed" / path)


def test_a_changed_byte_of_the_state_is_noticed(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: no flipped byte of a state, not even of its weights, is trained on; a damaged log is brought back."""
    _, expected = train(inputs, tmp_path / "undisturbed", spec(), machine())
    with monkeypatch.context() as patch:
        patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 2))
        with pytest.raises(KeyboardInterrupt):
            train(inputs, tmp_path / "killed", spec(), machine(checkpoint_every_seconds=0.0))
    names = [path.name for path in (tmp_path / "killed" / "state" / "step-00000002").iterdir()]
    assert {"model.safetensors", "optimizer.bin", "progress.json"} <= {*names}
    for name in names:
        out = tmp_path / name
        shutil.copytree(tmp_path / "killed", out)
        path = out / "state" / "step-00000002" / name
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"step-00000002 cannot be continued from \(.*; remove .*step-00000002 and run again"):
            train(inputs, out, spec(), machine())
    (tmp_path / "killed" / "log.jsonl").write_text('{"step": 0}\n')
    _, log = train(inputs, tmp_path / "killed", spec(), machine())
    assert without_clock(log) == without_clock(expected)


@pytest.mark.parametrize("row", [[], ["x", None], [0.0], [float("nan"), 0.0], "x", {}])
def test_a_row_of_the_opponent_that_is_none(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Any) -> None:
    """Promise: log-probabilities that are no numbers, or too few of them, are one line that names the file."""
    with monkeypatch.context() as patch:
        patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 1))
        with pytest.raises(KeyboardInterrupt):
            train(inputs, tmp_path / "out", spec(), machine())
    path = tmp_path / "out" / "opponent_logps.json"
    saved = json.loads(path.read_bytes())
    saved["logps"][max(saved["logps"])] = row
    path.write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"opponent_logps\.json is damaged .*; remove it and run again"):
        train(inputs, tmp_path / "out", spec(), machine())


def test_non_finite_loss_names_its_prompts(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a loss that is not finite stops before the optimizer, and says which prompts; the last state is untouched."""
    count = iter(range(1_000_000))
    compute = harness.training.global_batch.pair_logps

    def breaking(*args: Any) -> Any:
        logps = compute(*args)
        return logps._replace(policy_real=logps.policy_real * float("nan")) if next(count) == 3 else logps

    monkeypatch.setattr(harness.stages.train, "pair_logps", breaking)
    with pytest.raises(TrainingError, match=r"not finite for 2 of 4 pairs of the batch, prompts p\d, p\d"):
        train(inputs, tmp_path / "out", spec(), machine(checkpoint_every_seconds=0.0))
    assert [path.name for path in (tmp_path / "out" / "state").iterdir()] == ["step-00000001"]


def test_non_finite_gradient_names_its_layer(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: of a finite loss with a gradient that is not, the weight where that begins is named; the last state is untouched."""
    backward = harness.stages.train._backward
    count = iter(range(1_000_000))

    def breaking(training: Any, *args: Any) -> Any:
        if next(count) == 1:
            layer = training.scorer.get_submodule("model.model.layers.0.mlp.up_proj")
            layer.weight.register_hook(lambda gradient: gradient * math.nan)
        return backward(training, *args)

    monkeypatch.setattr(harness.stages.train, "_backward", breaking)
    with pytest.raises(
        TrainingError, match=r"nan at step 1; on the way back \S*layers\.0\.mlp\.up_proj\.weight is the first .* of 1 of \d+;"
    ):
        train(inputs, tmp_path / "out", spec(), machine(checkpoint_every_seconds=0.0))
    assert [path.name for path in (tmp_path / "out" / "state").iterdir()] == ["step-00000001"]


def test_counts_of_a_run() -> None:
    """Promise: micro-batch is the largest divisor of a process's share that fits; steps follow the recipe alone."""
    settings = TrainSpec.model_validate(spec(global_batch_size=24, schedule_epochs=6, stop_after_epochs=2))
    schedule = plan_steps(settings, 100, 1, 2, machine(micro_batch=5))
    assert schedule == (4, 24, 8, 4, 24)
    assert plan_steps(settings, 100, 1, 1, machine(micro_batch=100)).micro_batch == 24
    fixed = TrainSpec.model_validate(spec(num_steps=7))
    assert plan_steps(fixed, 10, 1, 1, machine())[1:3] == (7, 7)


def test_what_cannot_be_run() -> None:
    """Promise: an indivisible batch, too few pairs and a prompt that leaves no room are one clear line each."""
    settings = TrainSpec.model_validate(spec())
    with pytest.raises(MachineError, match="global batch of 4 pairs cannot be divided among 3 processes of machine 'test'"):
        plan_steps(settings, 10, 1, 3, machine())
    with pytest.raises(RecipeError, match="3 pairs do not fill one global batch of 4"):
        plan_steps(settings, 3, 1, 1, machine())
    with pytest.raises(RecipeError, match="max_prompt_length 96 leaves no token"):
        plan_steps(TrainSpec.model_validate(spec(max_prompt_length=96)), 10, 1, 1, machine())


def test_spin_without_responses_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: self-play without generated responses is an input error, not a crash."""
    roles = {role: inputs[role] for role in ("policy", "prompts")}
    with pytest.raises(InputError, match="needs generated responses"):
        train(roles, tmp_path / "out", spec(), machine())


@pytest.fixture(scope="module")
def carried(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`inputs` with a second response to every prompt."""
    root = tmp_path_factory.mktemp("carried")
    (root / "responses").mkdir()
    lines = [{"prompt_id": f"p{i}", "response": "newer " + "w" * (i % 4), "finish_reason": "length"} for i in range(NUM_PAIRS)]
    (root / "responses" / "00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / DONE_FILE).write_bytes(dump(Record(fingerprint="1", outputs={}, content="1", seconds=1.0, peak_memory_mb=1.0)))
    return {**inputs, "responses1": root}


def test_groups_give_the_same_loss_and_gradient_as_their_pairs(carried: dict[str, Path], tmp_path: Path) -> None:
    """Promise: a step over all pairs is the same whether they are scored apart or as groups, for fewer tokens."""
    recipe = spec(global_batch_size=20, num_steps=2, optimizer={"warmup_ratio": 0.0, "schedule": "constant"})
    apart, log_apart = train(carried, tmp_path / "pairs", recipe, machine(micro_batch=4))
    grouped, log = train(carried, tmp_path / "groups", {**recipe, "grouping": "groups"}, machine(micro_batch=4))
    for name in ("loss", "margin", "grad_norm", "logps/real", "logps/generated", "lengths/real", "lengths/generated"):
        assert [line[name] for line in log] == pytest.approx([line[name] for line in log_apart], rel=1e-4, abs=1e-4), name
    assert log[0]["tokens"] < 0.8 * log_apart[0]["tokens"]
    for name, weight in apart.items():
        torch.testing.assert_close(grouped[name], weight, atol=1e-4, rtol=1e-3)


def test_groups_continue_exactly(carried: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: carried-over groups, killed and continued, end in the same bytes."""
    recipe, always = spec(grouping="groups"), machine(checkpoint_every_seconds=0.0)
    _, expected = train(carried, tmp_path / "undisturbed", recipe, always)
    assert len(expected) == 10
    with monkeypatch.context() as patch:
        patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 3))
        with pytest.raises(KeyboardInterrupt):
            train(carried, tmp_path / "out", recipe, always)
    _, log = train(carried, tmp_path / "out", recipe, always)
    assert without_clock(log) == without_clock(expected)
    weights = "checkpoint/model.safetensors"
    assert hash_file(tmp_path / "out" / weights) == hash_file(tmp_path / "undisturbed" / weights)


def test_adapters_train_alone_and_are_merged(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: only the adapted layers change, the product is an ordinary checkpoint with the policy's own numbers, resume is exact."""
    pytest.importorskip("peft", reason="peft is not installed")
    recipe = spec(lora={"rank": 4, "alpha": 8, "targets": ["q_proj", "down_proj"]}, learning_rate=1e-2)
    before = load_file(inputs["policy"] / "checkpoint" / "model.safetensors")
    after, log = train(inputs, tmp_path / "out", recipe, machine())
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert log[-1]["loss"] < log[0]["loss"]
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name or "down_proj" in name}
    always = machine(checkpoint_every_seconds=0.0, gradient_checkpointing=True)
    with monkeypatch.context() as patch:
        patch.setattr(harness.stages.train, "_step", failing_at(harness.stages.train._step, 2))
        with pytest.raises(KeyboardInterrupt):
            train(inputs, tmp_path / "stopped", recipe, always)
    continued, _ = train(inputs, tmp_path / "stopped", recipe, always)
    for name in after:
        torch.testing.assert_close(continued[name], after[name], atol=1e-5, rtol=1e-4)


def test_adapters_disabled_are_the_opponent(inputs: dict[str, Path]) -> None:
    """Promise: whatever the adapters learn, without them the model is the one the opponent's log-probabilities came from."""
    pytest.importorskip("peft", reason="peft is not installed")
    from peft.tuners.lora import LoraLayer

    settings = TrainSpec.model_validate(spec(lora={"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}))
    groups = [Group([5, 6, 7], [[8, 9], [10]])]
    model = load_policy(inputs["policy"] / "checkpoint", settings, machine())
    opponent = group_logps(AutoModelForCausalLM.from_pretrained(inputs["policy"] / "checkpoint", dtype=torch.float32).eval(), groups)
    assert torch.equal(group_logps(model, groups), opponent)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    adapted = group_logps(model, groups)
    assert not torch.allclose(adapted, opponent)
    plain = AutoModelForCausalLM.from_config(model.config).eval()
    plain.load_state_dict(merged(model.state_dict(), settings.lora))
    torch.testing.assert_close(group_logps(plain, groups), adapted, atol=1e-4, rtol=1e-4)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.enable_adapters(False)
    assert torch.equal(group_logps(model, groups), opponent)


def test_bf16_follows_fp32(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: bf16 computes the same steps to its precision: losses within 0.05, gradient norms within 10 %, weights fp32."""
    recipe = spec(num_steps=2, learning_rate=1e-4)
    _, exact = train(inputs, tmp_path / "fp32", recipe, machine())
    AcceleratorState._reset_state(reset_partial_state=True)
    _, log = train(inputs, tmp_path / "bf16", {**recipe, "precision": "bf16"}, machine())
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in exact], abs=0.05)
    assert [line["grad_norm"] for line in log] == pytest.approx([line["grad_norm"] for line in exact], rel=0.1)


def test_out_of_memory_names_the_setting(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: no memory for a step is one line with the machine's settings to turn; another error stays what it is."""

    def exhausted(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(harness.stages.train, "_step", exhausted)
    with pytest.raises(MachineError, match=r"machine 'test' is out of memory; in its file lower micro_batch \(now 2\)"):
        train(inputs, tmp_path / "out", spec(), machine())
    monkeypatch.setattr(harness.stages.train, "_train", exhausted)
    with pytest.raises(MachineError, match="take more devices"):
        train(inputs, tmp_path / "out", spec(), machine(micro_batch=1, gradient_checkpointing=True))


def test_trackers_get_the_log(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: a machine's tracker receives every step; without one nothing is written."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    _, log = train(inputs, tmp_path / "out", spec(num_steps=2), machine(trackers=("tensorboard",)))
    events = reader.EventAccumulator(str(tmp_path / "out" / "harness")).Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in log])


def test_trackers_get_trls_names_too() -> None:
    """Promise: a dashboard made for TRL's DPOTrainer shows the same values; what a step has not is left out."""
    line = {"loss": 0.5, "rewards/real": 1.0, "rewards/accuracy": 0.75, "rewards/generated": None}
    assert harness.stages.train.tracked(line) == {
        "loss": 0.5, "rewards/real": 1.0, "rewards/chosen": 1.0, "rewards/accuracy": 0.75, "rewards/accuracies": 0.75,
    }  # fmt: skip


def test_what_a_step_costs(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Promise: lengths are token means over the batch, and utilisation is FLOPs over time and the machine's peak."""
    _, log = train(inputs, tmp_path / "out", spec(num_steps=1, global_batch_size=10), machine())
    line = log[0]
    assert line["lengths/real"] == pytest.approx(sum(len("real ") + 2 * i + 1 for i in range(10)) / 10)
    assert line["lengths/generated"] == pytest.approx(sum(len("own ") + (11 - i) + 1 for i in range(10)) / 10)
    assert line["tokens"] == pytest.approx(10 * (line["lengths/prompt"] + line["lengths/real"] + line["lengths/generated"]))
    model = AutoModelForCausalLM.from_pretrained(inputs["policy"] / "checkpoint")
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name)
    flops = line["mfu"] * line["seconds"] * MACHINE.peak_tflops * 1e12
    assert 6 * matrices * line["tokens"] < flops < 12 * (matrices + model.lm_head.weight.numel()) * line["tokens"]
    assert 0.05 < line["peak_memory_gb"] < 10
