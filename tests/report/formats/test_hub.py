"""The card on the Hub says what the tables say, and an upload sends what was recorded, only when asked."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, ModelCard, parse_eval_result_entries
from huggingface_hub.errors import LocalTokenNotFoundError
from typer.testing import CliRunner

from harness.artifact import RunDir
from harness.cli.main import app
from harness.errors import HarnessError, InputError
from harness.plan import plan
from harness.recipe import replace
from harness.report.formats.hub import EVAL_RESULTS, prepare, to_card, to_eval_results, upload, write_card
from harness.report.tables import collect
from tests.synthetic_runs import finish, small_recipe, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose iter1 has a checkpoint."""
    recipe = replace(small_recipe(), name="synthetic", summary="a | b <img src=x> [x](http://y)")
    path = write_run(tmp_path_factory.mktemp("run") / "a", recipe)
    stage = next(stage for stage in plan(recipe) if stage.path == "iter1/train")
    finish(RunDir(path), stage, {"checkpoint/model.safetensors": b"weights", "checkpoint/config.json": b"{}"})
    return path


class FakeHub:
    """What the two calls were given; no network."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.sent = error, {}  # type: ignore[var-annotated]

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        self.sent["repo"] = (repo_id, private, exist_ok)
        if self.error:
            raise self.error

    def create_commit(self, repo_id: str, operations: Any, *, commit_message: str) -> Any:
        self.sent["files"] = {one.path_in_repo for one in operations if isinstance(one, CommitOperationAdd)}


def test_card_loads_with_the_tables_numbers(run: Path) -> None:
    """Read back by huggingface_hub, its model-index holds the table's values and rules; what was not scored is not in it."""
    card = ModelCard.load(write_card(run, "iter1"))
    results = {one.task_name: one for one in card.data.eval_results}
    cell = collect(run).cell("iter1", "gsm8k")
    assert set(results) == {"gsm8k", "openbookqa", "kl"}
    assert results["gsm8k"].metric_value == pytest.approx(cell.value)
    assert results["gsm8k"].dataset_type == "openai/gsm8k"
    assert results["gsm8k"].dataset_args["num_few_shot"] == 5
    assert card.data.base_model == "alignment-handbook/zephyr-7b-sft-full"
    assert card.data.datasets == ["HuggingFaceH4/ultrachat_200k"]


def test_card_tells_the_recipe_and_where_it_differs(run: Path) -> None:
    """Settings of this iteration, deviations with reasons, the verdicts, the commit; a recipe's markup stays text."""
    text = str(to_card(run, "iter1"))
    assert "| iterations.1.beta | 0.1 |" in text
    assert "**supported**: SPIN improves on its SFT model" in text
    assert "the text names none; the release pins this commit" in text
    assert "commit `c0ffee" in text
    assert r"a \| b &lt;img src=x> [x]\(http://y)" in text
    with pytest.raises(HarnessError, match="did you mean 'iter1'"):
        to_card(run, "iter11")


def test_results_for_the_pages_of_benchmarks(run: Path) -> None:
    """Promise: huggingface_hub reads them back; a task asked in part, one the Hub has no data set of and an unscored one are not there."""
    (entry,) = parse_eval_result_entries(yaml.safe_load(to_eval_results(run, "iter1")))
    cell = collect(run).cell("iter1", "openbookqa")
    assert (entry.dataset_id, entry.task_id, entry.value) == ("allenai/openbookqa", "main", pytest.approx(cell.value))
    assert entry.notes == "acc_norm, 1-shot, 40 questions, rules current; synthetic iter1"


def test_upload_sends_the_recorded_checkpoint_and_the_card(run: Path) -> None:
    """One commit with the checkpoint's files at the top and the card as README.md, into a private repository."""
    hub = FakeHub()
    upload(prepare(run, "iter1", "me/model"), hub, private=True)
    assert hub.sent == {"repo": ("me/model", True, True), "files": {"README.md", EVAL_RESULTS, "model.safetensors", "config.json"}}


def test_what_must_not_be_sent_is_refused(run: Path, tmp_path: Path) -> None:
    """Changed weights, an iteration without a checkpoint, a missing token: one line, and nothing goes out."""
    with pytest.raises(InputError, match="recorded no checkpoint"):
        prepare(run, "iter0", "me/model")
    with pytest.raises(InputError, match="no Hub token found"):
        upload(prepare(run, "iter1", "me/model"), FakeHub(LocalTokenNotFoundError()), private=True)
    shutil.copytree(run, tmp_path / "changed")
    (tmp_path / "changed/iter1/train/checkpoint/model.safetensors").write_bytes(b"others")
    with pytest.raises(InputError, match="not the file its record names"):
        prepare(tmp_path / "changed", "iter1", "me/model")


def test_push_without_yes_only_lists(run: Path) -> None:
    """The command shows the files and says that nothing was sent."""
    done = CliRunner().invoke(app, ["push", str(run), "iter1", "me/model"])
    assert done.exit_code == 0
    assert done.output.splitlines()[:4] == [EVAL_RESULTS, "README.md", "config.json", "model.safetensors"]
    assert "nothing was sent" in done.output
