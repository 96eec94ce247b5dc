"""An iteration's pairs out of a run and into another."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard

from harness.artifact import RECIPE_FILE, RunDir
from harness.components.sources import procedural
from harness.contracts import Demonstration
from harness.errors import InputError
from harness.files import dump, write_atomic
from harness.plan import plan
from harness.recipe import Recipe, load, replace
from harness.runs import exchange, runner
from harness.runs.pair_files import Layout
from harness.runs.verification import verify
from harness.stages import generate
from harness.training.pairs import read_pairs, write_demonstrations
from tests.checkpoints import MACHINE, save_checkpoint

NUM = 12
TINY = load("tiny")
PROMPTS = TINY.prompts.model_copy(update={"num_prompts": NUM})
RECIPE = replace(TINY, name="pairs", sft=None, pretraining=None, prompts=PROMPTS, global_batch_size=NUM)
STAGES = {stage.path: stage for stage in plan(RECIPE)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with its model, its prompts and the responses of iteration 0."""
    run = with_model(tmp_path_factory.mktemp("run"))
    prompts, stage = STAGES["prompts"], STAGES["iter0/generate"]
    run.begin(prompts, MACHINE, {})
    examples = procedural.sample("train", NUM, 0)
    rows = [Demonstration(f"p{i}", [{"role": "user", "content": example.prompt}], example.response) for i, example in enumerate(examples)]
    write_demonstrations(run.path / "prompts" / "prompts.jsonl", rows)
    run.finish(prompts, 1.0, 1.0)
    run.begin(stage, MACHINE, {})
    inputs = {role: run.path / path for role, path in stage.inputs.items()}
    generate.run(stage.spec, inputs, run.stage_dir(stage.path), MACHINE)
    run.finish(stage, 1.0, 1.0)
    write_atomic(run.path / RECIPE_FILE, dump(RECIPE))
    return run


def with_model(path: Path) -> RunDir:
    run = RunDir(path)
    run.begin(STAGES["sft/model"], MACHINE, {})
    save_checkpoint(path / "sft" / "model" / "checkpoint")
    run.finish(STAGES["sft/model"], 1.0, 1.0)
    return run


def pairs_of(run: RunDir) -> list[object]:
    return list(read_pairs({"prompts": run.path / "prompts", "responses0": run.path / "iter0" / "generate"}))


def bring_in(run: RunDir, source: Path, split: str = "train+test", recipe: Recipe = RECIPE) -> int:
    return exchange.import_pairs(recipe, run, MACHINE, 0, str(source), split, "to see them again")


@pytest.mark.parametrize("layout", ["ucla", "trl"])
def test_out_and_in_again(run: RunDir, tmp_path: Path, layout: Layout) -> None:
    """Exported pairs, imported into a fresh run, are the pairs that training there reads; its runner takes the stages as done."""
    exchange.export(run, RECIPE, 0, layout, tmp_path / "set")
    other = with_model(tmp_path / "other")
    assert bring_in(other, tmp_path / "set") == NUM
    assert pairs_of(other) == pairs_of(run)
    assert [found.state for found in runner.survey(RECIPE, other) if found.stage.path in ("prompts", "iter0/generate")] == ["done", "done"]
    assert {item.reason for item in verify(other).damage} == {"is planned by recipe.json and has no stage.json"}
    statistics = json.loads((other.path / "iter0" / "generate" / "statistics.json").read_text())
    assert statistics["num_responses"] == NUM


@pytest.mark.parametrize("layout", ["ucla", "trl"])
def test_an_exported_set_has_a_card(run: RunDir, tmp_path: Path, layout: Layout) -> None:
    """Promise: huggingface_hub reads licence, size and files; the text counts the rows and explains just the columns that are there."""
    exchange.export(run, RECIPE, 0, layout, tmp_path / "set", "mit")
    card = DatasetCard.load(tmp_path / "set" / "README.md")
    assert (card.data.license, card.data.size_categories, card.data.task_categories) == ("mit", "n<1K", ["text-generation"])
    assert f"| train | {NUM - 1} |\n| test | 1 |" in card.text
    rows = datasets.load_dataset(str(tmp_path / "set"), split="train")
    assert re.findall(r"^\| `(\w+)` \|", card.text, re.MULTILINE) == rows.column_names


def test_both_ways_leave_their_provenance(run: RunDir, tmp_path: Path) -> None:
    """The set says which stage made it, and the run that takes it says from which bytes, and why."""
    exchange.export(run, RECIPE, 0, "ucla", tmp_path / "set")
    made = json.loads((tmp_path / "set" / "provenance.json").read_text())
    assert (made["recipe"], made["stage"], made["rows"]) == ("pairs", "iter0/generate", {"train": NUM - 1, "test": 1})
    assert made["fingerprint"] == STAGES["iter0/generate"].fingerprint
    other = with_model(tmp_path / "other")
    bring_in(other, tmp_path / "set")
    for path in ("prompts", "iter0/generate"):
        launch = other.launch(path)
        assert launch is not None
        (entry,) = launch.accepted
        assert entry.because == "to see them again"
        assert entry.difference[0][1].startswith("imported from set [train+test], sha256")
        assert launch.launches[-1]["imported"]["rows"] == NUM


def test_unknown_ends_are_told(run: RunDir, tmp_path: Path) -> None:
    """A file that does not tell how responses ended is taken as the release does, and the run says so."""
    exchange.export(run, RECIPE, 0, "ucla", tmp_path / "set")
    rows = datasets.load_dataset(str(tmp_path / "set"), split="train+test").remove_columns(["finish_reason"])
    rows.to_parquet(tmp_path / "bare.parquet")
    other = with_model(tmp_path / "other")
    bring_in(other, tmp_path / "bare.parquet", "train")
    launch = other.launch("iter0/generate")
    assert launch is not None
    assert launch.accepted[0].difference[1] == ("finish_reason", f"unknown for {NUM} of {NUM}, taken as 'stop'", "told by the engine")


def test_repeated_prompts_are_counted(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Promise: of two pairs with one prompt the first is kept; the other is said, counted and shown in the stage's samples."""
    exchange.export(run, RECIPE, 0, "ucla", tmp_path / "set")
    rows = datasets.load_dataset(str(tmp_path / "set"), split="train+test").to_list()
    rows.append({**rows[0], "generated": [*rows[0]["generated"][:-1], {"role": "assistant", "content": "another answer"}]})
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = with_model(tmp_path / "other")
    assert bring_in(other, tmp_path / "twice.jsonl", "train") == NUM
    assert pairs_of(other) == pairs_of(run)
    reason = "its prompt stood in an earlier row"
    assert f"left out 1 row: 1 because {reason}" in capsys.readouterr().err
    left_out = json.loads((other.path / "iter0" / "generate" / "samples" / "left_out.json").read_text())
    assert left_out[reason]["rows"] == 1
    assert rows[0]["prompt_id"] in left_out[reason]["example"]
    assert "iter0/generate" not in {item.path for item in verify(other).damage}
    few = replace(RECIPE, name="few", prompts=PROMPTS.model_copy(update={"num_prompts": NUM + 1}), global_batch_size=NUM + 1)
    with pytest.raises(InputError, match=rf"holds {NUM} prompts.*left out 1 row"):
        bring_in(with_model(tmp_path / "few"), tmp_path / "twice.jsonl", "train", few)


@pytest.mark.parametrize("half", ["prompts", "iter0/generate"])
def test_a_killed_import_is_never_completed_by_generating(half: str, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: responses of our own are not added to those of an import that did not end; the same import begins anew and ends."""
    exchange.export(run, RECIPE, 0, "ucla", tmp_path / "set")
    other = with_model(tmp_path / "other")
    write = "write_demonstrations" if half == "prompts" else "_write_responses"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exchange, write, killed)
        with pytest.raises(KeyboardInterrupt):
            bring_in(other, tmp_path / "set")
    with pytest.raises(InputError, match=f"the import of {half} did not end; run `harness import-pairs` again"):
        runner.reproduce(RECIPE, other, MACHINE, None, lambda _: None)
    assert bring_in(other, tmp_path / "set") == NUM
    assert pairs_of(other) == pairs_of(run)


def test_what_does_not_fit_is_refused(run: RunDir, tmp_path: Path) -> None:
    """Another number of prompts, other prompts, work that is there, a missing opponent, a full directory: one line each."""
    exchange.export(run, RECIPE, 0, "ucla", tmp_path / "set")
    with pytest.raises(InputError, match="is not empty"):
        exchange.export(run, RECIPE, 0, "ucla", tmp_path / "set")
    with pytest.raises(InputError, match="no iteration 7; expected one from 0 to 2"):
        exchange.export(run, RECIPE, 7, "ucla", tmp_path / "none")
    with pytest.raises(InputError, match="iter0/generate is done"):
        bring_in(run, tmp_path / "set")
    with pytest.raises(InputError, match=rf"holds {NUM - 1} prompts, recipe pairs trains on {NUM}"):
        bring_in(with_model(tmp_path / "other"), tmp_path / "set", "train")
    with pytest.raises(InputError, match="sft/model is not finished"):
        bring_in(RunDir(tmp_path / "empty"), tmp_path / "set")
    shutil.copytree(run.path / "prompts", tmp_path / "other" / "prompts")
    path = tmp_path / "set" / "data" / "train-00000-of-00001.parquet"
    rows = datasets.load_dataset("parquet", data_files=str(path), split="train").map(lambda row: {"prompt_id": row["prompt_id"] + "x"})
    rows.to_parquet(path)
    with pytest.raises(InputError, match="prompt or real response is not the run's"):
        bring_in(RunDir(tmp_path / "other"), tmp_path / "set")
