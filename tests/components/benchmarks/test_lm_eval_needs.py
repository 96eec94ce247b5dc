"""What lm-eval's tasks need while they score is named before anything is generated; nothing here asks the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.components.benchmarks import lm_eval as component
from harness.errors import InputError
from harness.evaluation import any_task
from harness.recipe import Benchmark, Task
from tests.components.benchmarks.test_lm_eval import job, only_own, write_task
from tests.tiny_checkpoints import word_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_checkpoint(tmp_path_factory.mktemp("model"))


SCORER = """
{imports}
import nltk.data
NEEDED = "nltk.data.find('tokenizers/punkt_tab')"

def process_results(doc, results):
    {body}
    return {{"exact_match": 1.0}}
"""


def scored_by(folder: Path, body: str, imports: str = "", *, name: str = "scored") -> Path:
    """A folder with a group of one task, which its own code scores."""
    write_task(folder, "generate_until", 1)
    config = yaml.safe_load((folder / "generate_until_1.yaml").read_text()) | {"task": name}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config) + "process_results: !function code.process_results\n")
    (folder / "all.yaml").write_text(yaml.safe_dump({"group": "all_of_it", "task": [name]}))
    (folder / "code.py").write_text(SCORER.format(body=body, imports=imports))
    return folder


def test_data_that_scoring_needs_is_named_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IFEval's tokenizer of sentences, and a package, for lm-eval's own task and a group of the user's; nothing once they are here."""
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    monkeypatch.setenv("HOME", str(tmp_path))
    sentences = "scores with nltk's tokenizers/punkt_tab, which is not here", "python -m nltk.downloader punkt_tab"
    own = scored_by(tmp_path, "pass", "import no_such_package")
    mine = Benchmark(name="lm_eval", protocol="p", tasks=(Task(name="all_of_it"),), task_folder=str(own))
    ifeval = Benchmark(name="lm_eval", protocol="p", tasks=(Task(name="leaderboard_ifeval"),))
    assert (f"ifeval {sentences[0]}", sentences[1]) in component.lacks(ifeval)
    assert component.lacks(mine) == [
        (f"{tmp_path.name} needs the package no_such_package", "pip install 'no_such_package'"),
        (f"{tmp_path.name} {sentences[0]}", sentences[1]),
    ]
    (tmp_path / "nltk" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    assert all("punkt_tab" not in what for what, _ in component.lacks(ifeval) + component.lacks(mine))
    assert component.lacks(mine.model_copy(update={"tasks": (Task(name="generate_until_1"),)})) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "raise LookupError('\\n***\\n  Resource `x` not found.')",
            "scored cannot be scored here: Resource `x` not found; nothing was generated",
        ),
        ("raise ConnectionError('no rouge in the cache')", "scored cannot be scored here: no rouge in the cache; nothing was generated"),
        ("import no_such_package", "scored cannot be scored here: No module named 'no_such_package'; nothing was generated"),
        ("pass", "scores with nltk's tokenizers/punkt_tab, which is not here: python -m nltk.downloader punkt_tab"),
    ],
)
def test_a_task_that_cannot_be_scored_is_refused_before_it_is_answered(
    body: str, says: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its code lacks while it scores, the stage ends in one line at its start; the model is not even loaded."""
    only_own(monkeypatch)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(any_task, "SharedPromptLM", None)
    monkeypatch.chdir(scored_by(tmp_path, body))
    with pytest.raises(InputError, match=says) as refused:
        component.open_benchmark(job(checkpoint, tmp_path, tmp_path, Task(name="scored")))
    assert "\n" not in str(refused.value)


def test_a_metric_that_nobody_has_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval goes on without a metric that it does not find on the Hub, and would fail once everything is answered."""
    only_own(monkeypatch)
    monkeypatch.setattr("lm_eval.api.registry.get_metric", lambda *_: None)
    monkeypatch.setattr("lm_eval.api.task.get_metric", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path, "generate_until", 1)
    with pytest.raises(InputError, match="generate_until_1 cannot be scored here: lm-eval found no metric exact_match"):
        component.open_benchmark(job(checkpoint, tmp_path, tmp_path, Task(name="generate_until_1")))


def test_code_that_a_made_up_answer_upsets_is_left_to_the_real_ones(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that says nothing of missing data refuses no run."""
    only_own(monkeypatch)
    (tmp_path / "nltk" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    monkeypatch.chdir(scored_by(tmp_path, "assert '4' not in results[0]"))
    score = component.open_benchmark(job(checkpoint, tmp_path, tmp_path, Task(name="scored", limit=2)))
    assert score(Task(name="scored", limit=2)).score.value == 100.0
