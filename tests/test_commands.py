"""What the README and the documentation say can be typed runs, on the committed runs; what cannot run here is listed with the reason."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.analysis.scores import load_scores
from harness.artifact import RECIPE_FILE
from harness.runs.committed_records import UNCOMMITTED
from harness.runs.sweeps import SWEEP_FILE, is_sweep, read_sweep
from tests import ROOT
from tests.cli.test_main import Cli, harness
from tests.conftest import SHARED

__all__ = ["harness"]
PAGES = (ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "cli.md"))
"""cli.md is written by the CLI itself: it shows how a command is called, and no call."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`(harness [^`\n]+)`")
COMMITTED = tuple(sorted(path.parent.relative_to(ROOT) for name in (RECIPE_FILE, SWEEP_FILE) for path in ROOT.glob(f"results/*/{name}")))
ANSWERS = "needs responses or samples, which are not committed"
NOT_RUN = {
    "harness reproduce tiny": "minutes; tests/smoke runs and kills a whole pipeline",
    "harness reproduce zephyr-7b": "needs eight GPUs",
    "harness rehearse zephyr-7b": "needs eight GPUs",
    "harness rehearse zephyr-7b --random-weights": "needs the Hub; tests/cli/test_rehearse.py",
    "harness rehearse zephyr-7b --random-weights --files DIRECTORY": "minutes; tests/cli/test_rehearse.py",
    "harness rehearse RECIPE": "minutes; tests/cli/test_rehearse.py",
    "harness reproduce ./judged.py": "needs a judge; tests/stages/test_verdicts.py",
    "harness reproduce ./again.py --out results/tiny --only '*/eval/judged/*'": "needs a judge; tests/stages/test_verdicts.py",
    "harness reproduce my_recipe.py --machine my_box.py": "minutes; tests/test_own_files.py",
    "harness sweep mine.py": "minutes; tests/runs/test_sweeps.py",
    "harness sweep tiny-study": "hours; tests/runs/test_sweeps.py",
    "harness anchors RECIPE": "needs a GPU",
    "harness cancel RECIPE": "needs Slurm; tests/slurm",
    'harness accept RECIPE STAGE --because "..."': "nothing differs in the committed runs; tests/runs/test_runner.py",
    "harness compare-training RUN ROW STATE": "needs a released file; tests/analysis/forensics",
    "harness compare-responses ITERATION SET RUN...": ANSWERS,
    "harness compare-results RUN ROW SOURCE...": "needs published files; tests/analysis/forensics/test_result_files.py",
    "harness export-results RUN ROW --out DIR": ANSWERS,
    "harness judge-again RECIPE gpt-4_single.jsonl --out ours_single.jsonl": "needs a judge; tests/evaluation/mt_bench/test_regrading.py",
    "harness agreement LEFT RIGHT": "needs published judgments; tests/analysis/forensics/test_judge_agreement.py",
    "harness reproduce RECIPE --track tensorboard|wandb|trackio": "minutes; tests/stages/test_train.py",
    "harness export RUN ITERATION --out DIR --license ID": ANSWERS,
    "harness import-judgments FILE...": "needs published judgments; tests/evaluation/mt_bench/test_ratings.py",
    "harness import-results SOURCE...": "needs published files; tests/analysis/forensics/test_result_files.py",
    "harness push RUN ITERATION OWNER/NAME --yes": "would upload; without --yes it is run below",
}
FINDS = ("harness doctor zephyr-7b", "harness doctor zephyr-7b --machine a100x8")
"""Commands whose answer, here, is what is missing for them: exit code 1."""
ON_A_GPU = ("harness doctor smollm2-135m-power",)
"""What a template becomes of a recipe that was run on a GPU: here its answer is that there is none."""
OF_ONE_RUN = ("harness card RUN ITERATION", "harness plan RECIPE", "harness doctor RECIPE")
"""What is shown for any run or recipe, and is not for a study."""


class Command(NamedTuple):
    """A command as a page shows it."""

    page: str
    text: str


def shown() -> Iterator[Command]:
    """Every `harness ...` of the pages' shell blocks and of code in their text, once; a command's bare name is no command."""
    seen = set()
    for page in PAGES:
        text = page.read_text()
        blocks = "\n".join(block for kind, block in FENCE.findall(text) if kind in ("bash", "sh", "console")).replace("\\\n", " ")
        lines = [part.strip() for line in blocks.splitlines() for part in re.split(r"&&|\|", line.split("  #")[0])]
        typed = [re.sub(r"^(\$ )?(\S*/)?harness\b", "harness", line) for line in lines if re.match(r"(\$ )?(\S*/)?harness\b", line)]
        spans = [span for span in SPAN.findall(FENCE.sub("", text)) if len(span.split()) > 2 or span == "harness machines"]
        for command in (*typed, *spans):
            if command not in seen:
                seen.add(command)
                yield Command(page.name, command)


def filled(text: str, run: Path) -> str:
    """The command with `run`, and a row, a column and the recipe of it, in the place of words in capitals."""
    is_study = is_sweep(ROOT / run)
    scores = load_scores(read_sweep(ROOT / run).folders(ROOT / run)[0] if is_study else ROOT / run)
    first = scores.tasks[0]
    words = {
        "RUN[:ROW] RUN[:ROW]": f"{run}:sft {run}:iter2",
        "RUN...": str(run),
        "RUN": str(run),
        "ITERATION": "iter1",
        "ROW": [row for row in scores.rows if scores.score(row, first)][-1],
        "TASK": first.label,
        "RECIPE.tar.gz": f"results/{run.name}.tar.gz",
        "RECIPE": str(run) if is_study else scores.recipe.name,
    }
    return re.sub("|".join(rf"(?<![\w/]){re.escape(word)}(?!\w)" for word in words), lambda found: words[found[0]], text)


def is_template(text: str) -> bool:
    """Whether a command stands for many: it has words in capitals."""
    return re.search(r"(?<![\w/-])[A-Z]{2,}", text) is not None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the committed runs, a run called mine, and the files the pages have their reader write."""
    folder = tmp_path_factory.mktemp("place")
    uncommitted = shutil.ignore_patterns(*(name.rstrip("/") for name in UNCOMMITTED), ".*")  # where a run was made again in this checkout
    for run in COMMITTED:
        shutil.copytree(ROOT / run, folder / run, ignore=uncommitted)
    shutil.copytree(folder / "results/tiny", folder / "results/mine")
    sweep = next(block for kind, block in FENCE.findall((ROOT / "docs/sweeps.md").read_text()) if kind == "python")
    (folder / "mine.py").write_text(sweep)
    (folder / "data").mkdir()
    (folder / "data/mine.jsonl").write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    return folder


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


BUNDLE = "results/tiny.tar.gz"
SHOWN = [*shown()]
TEXTS = [command.text for command in SHOWN if command.text not in NOT_RUN]
STUDIES = {run for run in COMMITTED if is_sweep(ROOT / run)}
CASES = [text for text in TEXTS if not is_template(text)]
CASES += [filled(text, run) for text in TEXTS for run in COMMITTED if is_template(text) and not (text in OF_ONE_RUN and run in STUDIES)]


@pytest.mark.parametrize("command", dict.fromkeys(CASES))
def test_what_the_pages_show_runs(harness: Cli, command: str) -> None:
    """Promise: what is shown can be typed, and ends well, with something to read; what is shown for any run, on every committed one."""
    if BUNDLE in command.split() and not Path(BUNDLE).exists():  # another worker's test has made its own
        harness("bundle", "results/tiny")
    done = harness(*shlex.split(command)[1:])
    if command.startswith("harness doctor") and done.err == "error: 1 problem to fix: data\n" and not SHARED.is_dir():
        pytest.skip("the recipe's data set is neither in a cache nor reachable here")
    assert done.code == (1 if command in (*FINDS, *ON_A_GPU) else 0), done.err
    assert done.out
    assert not command.startswith("harness verify") or re.search(r"\b[1-9]\d* files match", done.out)


@pytest.mark.parametrize("text", OF_ONE_RUN)
@pytest.mark.parametrize("study", sorted(STUDIES), ids=str)
def test_a_study_is_no_run(harness: Cli, text: str, study: Path) -> None:
    """Promise: what is of one run, or of one recipe, says so of a study's directory in one line."""
    done = harness(*shlex.split(filled(text, study))[1:])
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["tiny", "smollm2-135m"])
def test_a_push_lists_what_it_would_send(harness: Cli, name: str) -> None:
    """Promise: without --yes nothing is sent; a clone has no weights to list, which is one line."""
    done = harness("push", f"results/{name}", "iter1", "me/spin")
    assert done.code == 1
    assert "iter1/train/checkpoint/" in done.err
    assert "is missing or not the file its record names" in done.err


def test_what_is_not_run_is_shown() -> None:
    """Promise: the list of exceptions names commands that the pages still show, each with its reason."""
    texts = {command.text for command in SHOWN}
    assert [text for text in (*NOT_RUN, *FINDS, *OF_ONE_RUN) if text not in texts] == []
    assert all(NOT_RUN.values())
