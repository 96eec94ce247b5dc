"""Stage `generate`: every prompt once, the same bytes after any interruption, and clear words about damaged input."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.components.engines.hf import Engine
from harness.components.sources import procedural
from harness.contracts import Demonstration, Response
from harness.contracts.stage_specs import GenerateSpec
from harness.errors import InputError
from harness.files import read_jsonl
from harness.recipe import Sampling
from harness.stages import generate
from harness.training.pairs import write_demonstrations
from tests.checkpoints import MACHINE, save_checkpoint

NUM = 17
ENGINE_GENERATE = Engine.generate
SPEC = GenerateSpec(engine="hf", sampling=Sampling(temperature=1.0, max_new_tokens=6), template="chat", dtype="float32", seed=3).model_dump(
    mode="json"
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("generate")
    save_checkpoint(folder / "policy" / "checkpoint")
    (folder / "prompts").mkdir()
    examples = procedural.sample("train", NUM, 0)
    rows = [Demonstration(f"p{i}", [{"role": "user", "content": example.prompt}], example.response) for i, example in enumerate(examples)]
    write_demonstrations(folder / "prompts" / "prompts.jsonl", rows)
    return {"policy": folder / "policy", "prompts": folder / "prompts"}


@pytest.fixture(scope="module")
def undisturbed(inputs: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    generate.run(SPEC, inputs, out, MACHINE)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def lines_of(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for name, data in files.items() if name.startswith("responses/") for line in data.splitlines()]


def test_every_prompt_is_answered_once(undisturbed: dict[str, bytes]) -> None:
    """Shards of at most the machine's size hold one response a prompt, without special tokens, and the statistics agree with them."""
    lines = lines_of(undisturbed)
    assert sorted(line["prompt_id"] for line in lines) == sorted(f"p{i}" for i in range(NUM))
    assert list(undisturbed) == [*(f"responses/{i:05}.jsonl" for i in range(5)), "statistics.json"]
    assert not any("<" in line["response"] for line in lines)
    assert all(line["num_tokens"] == 6 for line in lines if line["finish_reason"] == "length")
    statistics = json.loads(undisturbed["statistics.json"])
    assert statistics["num_responses"] == NUM
    assert statistics["mean_tokens"] == pytest.approx(sum(line["num_tokens"] for line in lines) / NUM)
    assert statistics["share_length"] == sum(line["finish_reason"] == "length" for line in lines) / NUM
    assert [statistics["shards"][f"{i:05}"]["num_responses"] for i in range(5)] == [1, 4, 4, 4, 4]


def test_the_rows_of_a_shard(undisturbed: dict[str, bytes]) -> None:
    """A line holds prompt_id, response, finish_reason and num_tokens, and nothing else."""
    assert {tuple(line) for line in lines_of(undisturbed)} == {("prompt_id", "response", "finish_reason", "num_tokens")}


@pytest.mark.parametrize("num_shards", [0, 1, 3])
def test_a_killed_launch_continues_to_the_same_bytes(
    inputs: Mapping[str, Path], undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_shards: int
) -> None:
    """Killed between any two shards, the next launch asks only what is missing and ends in the same files, byte for byte."""
    asked = watch(monkeypatch, fail_after=num_shards)
    with pytest.raises(KeyboardInterrupt):
        generate.run(SPEC, inputs, tmp_path, MACHINE)
    assert len(list((tmp_path / "responses").glob("*.jsonl")) if num_shards else []) == num_shards
    asked = watch(monkeypatch)
    generate.run(SPEC, inputs, tmp_path, MACHINE)
    assert sum(asked) == NUM - 4 * num_shards
    assert contents(tmp_path) == undisturbed


def test_the_longest_prompts_are_answered_first(
    inputs: Mapping[str, Path], undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: what needs most memory comes first, by shards and within them, and no prompt's batch depends on how shards are cut."""
    batches: list[list[int]] = []
    answer = Engine._batch

    def watched(self: Engine, requests: Any) -> Any:
        batches.append([len(request.token_ids) for request in requests])
        return answer(self, requests)

    monkeypatch.setattr(Engine, "_batch", watched)
    generate.run(SPEC, inputs, tmp_path / "small", MACHINE)
    assert [length for batch in batches for length in batch] == sorted((length for batch in batches for length in batch), reverse=True)
    cut_small = [*batches]
    batches.clear()
    generate.run(SPEC, inputs, tmp_path / "large", MACHINE.model_copy(update={"generate_shard": 100}))
    assert batches == cut_small == [batch for batch in cut_small if 0 < len(batch) <= MACHINE.generate_batch]
    assert sorted(map(str, lines_of(contents(tmp_path / "large")))) == sorted(map(str, lines_of(undisturbed)))


def test_a_finished_stage_loads_no_model(
    inputs: Mapping[str, Path], undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When every prompt is answered, only the statistics are written again."""
    restore(tmp_path, undisturbed)
    (tmp_path / "statistics.json").unlink()
    monkeypatch.setattr("harness.components.engines.hf.open_engine", None)
    generate.run(SPEC, inputs, tmp_path, MACHINE)
    assert contents(tmp_path) == undisturbed


def test_a_missing_line_is_asked_again(inputs: Mapping[str, Path], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """A shard that lacks a line gets exactly that response, in its place."""
    restore(tmp_path, undisturbed)
    path = tmp_path / "responses" / "00001.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], *lines[3:]]))
    generate.run(SPEC, inputs, tmp_path, MACHINE)
    assert contents(tmp_path) == undisturbed


def test_other_shards_keep_what_is_answered(inputs: Mapping[str, Path], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """A machine with larger shards continues the work of one with smaller shards: nothing twice, nothing lost."""
    restore(tmp_path, {name: data for name, data in undisturbed.items() if name == "responses/00001.jsonl"})
    generate.run(SPEC, inputs, tmp_path, MACHINE.model_copy(update={"generate_shard": 8}))
    found = {line["prompt_id"]: line["response"] for line in lines_of(contents(tmp_path))}
    assert len(lines_of(contents(tmp_path))) == NUM
    assert found == {line["prompt_id"]: line["response"] for line in lines_of(undisturbed)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-9], "00002.jsonl line 4 is not whole JSON"),
        (lambda data: data + data, "a second time; remove the file"),
        (lambda data: data.replace(b'_id": "p', b'_id": "x'), "not among the prompts"),
        (lambda data: data.replace(b'"num_tokens": ', b'"num_tokens": 0.'), "not a response"),
        (lambda data: data.replace(b'"length"', b'"lost"').replace(b'"stop"', b'"lost"'), "finish reason 'lost'"),
    ],
)
def test_a_damaged_shard_is_named(
    inputs: Mapping[str, Path], undisturbed: dict[str, bytes], tmp_path: Path, damage: Any, message: str
) -> None:
    """A cut, repeated, foreign or altered shard is one clear line, and no file is touched."""
    files = {**undisturbed, "responses/00002.jsonl": damage(undisturbed["responses/00002.jsonl"])}
    restore(tmp_path, files)
    with pytest.raises(InputError, match=message):
        generate.run(SPEC, inputs, tmp_path, MACHINE)
    assert contents(tmp_path) == files


def test_missing_and_repeated_inputs_are_named(inputs: Mapping[str, Path], tmp_path: Path) -> None:
    """No checkpoint, no prompts, no prompt, or a prompt id given twice: one clear line each."""
    with pytest.raises(InputError, match=r"policy input has no checkpoint"):
        generate.run(SPEC, {**inputs, "policy": tmp_path}, tmp_path, MACHINE)
    with pytest.raises(InputError, match=r"prompts input has no prompts\.jsonl"):
        generate.run(SPEC, {**inputs, "prompts": tmp_path}, tmp_path, MACHINE)
    (tmp_path / "prompts.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="holds no prompt"):
        generate.run(SPEC, {**inputs, "prompts": tmp_path}, tmp_path, MACHINE)
    line = next(read_jsonl(inputs["prompts"] / "prompts.jsonl"))
    write_demonstrations(tmp_path / "prompts.jsonl", [Demonstration(**line), Demonstration(**line)])
    with pytest.raises(InputError, match=r"more than once \(first: p0\)"):
        generate.run(SPEC, {**inputs, "prompts": tmp_path}, tmp_path, MACHINE)


def test_two_replicas_give_the_bytes_of_one(inputs: Mapping[str, Path], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Real engines in two processes leave the same files as one engine in this one."""
    generate.run(SPEC, inputs, tmp_path, MACHINE.model_copy(update={"num_replicas": 2}))
    assert contents(tmp_path) == undisturbed


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed here")
def test_a_killed_ray_replica_changes_no_byte(inputs: Mapping[str, Path], tmp_path: Path) -> None:
    """Of two real engines in Ray actors one is killed by SIGKILL midway: the files are those of one engine in this process."""
    examples = procedural.sample("train", 400, 1)
    rows = [Demonstration(f"p{i}", [{"role": "user", "content": example.prompt}], example.response) for i, example in enumerate(examples)]
    write_demonstrations(tmp_path / "prompts.jsonl", rows)
    given = {**inputs, "prompts": tmp_path}
    generate.run(SPEC, given, tmp_path / "one", MACHINE)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after, args=(tmp_path / "two" / "responses", 10, killed))
    killer.start()
    generate.run(SPEC, given, tmp_path / "two", MACHINE.model_copy(update={"replicas_on": "ray", "num_replicas": 2}))
    killer.join()
    assert killed
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def kill_a_worker_after(folder: Path, num_shards: int, killed: list[int]) -> None:
    """Kill one of this process's Ray actors when `num_shards` shards are written, unless all are, and note its pid."""
    import psutil

    while len(list(folder.glob("*.jsonl"))) < num_shards:
        time.sleep(0.02)
    workers = [child for child in psutil.Process().children(recursive=True) if "_Actor" in " ".join(child.cmdline())]
    if len(list(folder.glob("*.jsonl"))) < 80:
        workers[0].kill()
        killed.append(workers[0].pid)


def test_time_and_memory_are_linear(inputs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the prompts cost a fake engine's stage four times the time, not sixteen, and less than 1 kB of memory for each."""
    engine = SimpleNamespace(generate=lambda asked: [Response(request.request_id, [5, 6], "stop") for request in asked])
    fake = SimpleNamespace(open_engine=lambda *_: engine)
    monkeypatch.setattr(generate, "load", lambda kind, name: fake)
    seconds, peaks = [], []
    for num in (300, 1200):
        folder = tmp_path / str(num)
        folder.mkdir()
        rows = (Demonstration(f"{i:064}", [{"role": "user", "content": "ka lo mi " * (i % 7 + 1)}], "x" * 400) for i in range(num))
        write_demonstrations(folder / "prompts.jsonl", list(rows))
        tracemalloc.start()
        began = time.process_time()
        generate.run(SPEC, {**inputs, "prompts": folder}, folder, MACHINE.model_copy(update={"generate_shard": 20}))
        seconds.append(time.process_time() - began)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert seconds[1] < 8 * seconds[0]
    assert (peaks[1] - peaks[0]) / 900 < 1000


def restore(out: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)


def watch(monkeypatch: pytest.MonkeyPatch, fail_after: int | None = None) -> list[int]:
    """Sizes of the engine's calls from now on; the call after `fail_after` of them is interrupted."""
    asked: list[int] = []
    answer = ENGINE_GENERATE

    def generate_or_stop(self: Engine, requests: Any) -> Any:
        if len(asked) == fail_after:
            raise KeyboardInterrupt
        asked.append(len(requests))
        return answer(self, requests)

    monkeypatch.setattr(Engine, "generate", generate_or_stop)
    return asked


def test_shares_together_are_the_whole(
    inputs: Mapping[str, Path], undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that have a share each answer all prompts, in any order, and none of the others'; one without a share then only counts."""
    for number in (2, 0, 1):
        monkeypatch.setenv("HARNESS_SHARE", f"{number}/3")
        before = set(contents(tmp_path))
        generate.run(SPEC, inputs, tmp_path, MACHINE)
        shards = {name: int(Path(name).stem) for name in undisturbed if name.startswith("responses/")}
        assert set(contents(tmp_path)) - before == {name for name, index in shards.items() if index % 3 == number}
    monkeypatch.delenv("HARNESS_SHARE")
    monkeypatch.setattr(generate, "open_replica", None)
    generate.run(SPEC, inputs, tmp_path, MACHINE)
    assert contents(tmp_path) == undisturbed
