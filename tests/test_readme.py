"""What the README says can be typed, and its table is one that a committed run produced."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from harness import recipe as recipes
from harness.analysis import published
from harness.analysis.differences import compare_rows, delta, delta_text
from harness.analysis.scores import load_scores
from harness.cli.main import app
from harness.report import tables
from tests import ROOT
from tests.committed import committed_table

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"```(?:bash|sh|console)\n(.*?)```", re.DOTALL)
TABLE = re.compile(r"<!-- table: (\S+) (.+?) -->\n(.*?)<!-- end of table -->", re.DOTALL)


def commands(page: Path) -> list[str]:
    """Every `harness ...` line of a page's shell blocks, continued lines joined."""
    lines = "\n".join(FENCE.findall(page.read_text())).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r"&&|\|", line.split("  #")[0])]
    return [re.sub(r"^(\S*/)?harness\b", "harness", part) for part in parts if re.match(r"(\S*/)?harness\b", part)]


@pytest.mark.parametrize(("page", "command"), [(page.name, line) for page in PAGES for line in commands(page)])
def test_commands_parse(page: str, command: str) -> None:
    """Every command shown is one the CLI takes, with options it has."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    _, name, *arguments = shlex.split(command, comments=True)
    if name == "--help":
        return
    subcommand = group.commands[name]  # type: ignore[attr-defined]
    subcommand.make_context(name, arguments, resilient_parsing="--help" in arguments)


def test_recipes_are_listed() -> None:
    """A shipped recipe is named in the README."""
    text = (ROOT / "README.md").read_text()
    assert [name for name in recipes.available() if f"`{name}`" not in text] == []


def test_tables_are_those_of_committed_runs() -> None:
    """A table of the README is, to the letter, the section of that title of a committed run's tables."""
    shown = TABLE.findall((ROOT / "README.md").read_text())
    assert shown
    for run, title, text in shown:
        aside = ROOT / f"{run}.recorded"  # where a run of one's own put the committed records
        whole = ((aside if aside.is_dir() else ROOT / run) / "tables" / "tables.md").read_text()
        section = whole.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
        assert text.strip() in section


RUNS = [path for path in sorted((ROOT / "results").iterdir()) if path.suffix != ".recorded" and (path / "tables" / "tables.md").exists()]


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_committed_tables_are_what_the_records_say(folder: Path) -> None:
    """Rebuilding the tables of a run or a sweep from its records alone gives the committed bytes; test_commands.py verifies the records."""
    table = committed_table(folder)
    for format, name in tables.FILES.items():
        assert tables.render(table, format) == (folder / "tables" / name).read_text()


DIFFERENCE = re.compile(r"`?(\w+)`? (?:-|less) `?(\w+)`?(?::| is) ([+-]\d+\.\d+ \[\S+ \S+\])")


@pytest.mark.parametrize("page", [*(ROOT / "results").glob("*/FINDING.md"), ROOT / "README.md"], ids=lambda page: page.parent.name)
def test_differences_in_words_are_those_of_the_records(page: Path) -> None:
    """A difference that somebody wrote out is, to the digit, that of the two rows, on a task or the average, with GSM8K or without."""
    run = page.parent if page.name == "FINDING.md" else ROOT / "results/smollm2-135m-power"
    scores = load_scores(run)
    told = DIFFERENCE.findall(" ".join(page.read_text().split()))
    assert told
    others = [column for column in scores.leaderboard if column.label != "gsm8k"]
    for row, against, text in told:
        without = delta(against, scores.average_difference(row, against, others))
        assert text in {delta_text(one, None) for one in (*compare_rows(scores, row, against).tasks.values(), without)}


def test_scores_in_words_are_those_of_the_records() -> None:
    """The held-out figures that the finding writes out are the table's."""
    run = ROOT / "results/smollm2-135m-power"
    text = " ".join((run / "FINDING.md").read_text().split())
    told = {row: value for value, row in re.findall(r"(\d\.\d{3})(?: nats a token)? under (\w+)", text)}
    scores = load_scores(run)
    assert told == {row: f"{scores.value(row, 'held_out_nll_per_token'):.3f}" for row in scores.rows}


def test_the_paper_s_numbers_are_the_paper_s() -> None:
    """The first table holds the published means and MT-Bench scores, and 'not reported' where there are none."""
    rows = re.findall(r"^\| (sft|iter\d) \| (\S+) \| not run \| (.+?) \| not run \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [row for row, _, _ in rows] == ["sft", "iter0", "iter1", "iter2", "iter3"]
    for row, mean, points in rows:
        cells = (published.claim("paper/leaderboard", row, "average"), published.claim("paper/mt_bench", row, "mt_bench"))
        assert [f"{cell.value:.2f}" if cell else "not reported" for cell in cells] == [mean, points]


def test_the_tree_names_what_is_there() -> None:
    """Each top file and folder of the package has one line in the README's tree, and nothing else has."""
    tree = (ROOT / "README.md").read_text().split("```\nharness/\n", 1)[1].split("\nrecipes/ machines/", 1)[0]
    named = [line.split()[0].rstrip("/") for line in tree.splitlines()]
    there = [path.name for path in (ROOT / "harness").iterdir() if path.name != "__pycache__"]
    assert sorted(named) == sorted(there)
