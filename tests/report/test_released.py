"""What others released stands in the report beside ours, where the user put it into the run; the commands say the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.artifact import RunDir, read_recipe
from harness.cli import main as cli
from harness.files import read_jsonl
from harness.report.blocks import released_blocks
from tests.reported_runs import write_reported_run
from tests.synthetic_runs import small_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its own log and responses as the released artifacts of iteration 0."""
    path = write_reported_run(tmp_path_factory.mktemp("runs") / "a", small_recipe())
    folder = path / "released/iter0"
    folder.mkdir(parents=True)
    log = list(read_jsonl(path / "iter0/train/log.jsonl"))
    history = [{"step": line["step"] + 1, "loss": line["loss"]} for line in log]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history, "max_steps": 60, "num_train_epochs": 6}))
    asked = {row["prompt_id"]: row["prompt"] for row in read_jsonl(path / "prompts/prompts.jsonl")}
    lines = [*read_jsonl(path / "iter0/generate/responses/00000.jsonl")][5:]  # those before are not all Unicode text
    said = [(asked[line["prompt_id"]], line["response"]) for line in lines]
    pairs = [{name: [*prompt, {"role": "assistant", "content": text}] for name in ("real", "generated")} for prompt, text in said]
    (folder / "responses.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def test_the_report_has_a_block_for_each_artifact(run: Path) -> None:
    """Training and responses of iteration 0, under titles that stand among the published numbers; without files there is none."""
    training, responses = released_blocks(RunDir(run), read_recipe(run))
    assert training.title == "Published training: iter0"
    assert [row[:3] for row in training.rows] == [("loss", "20", "nowhere")]
    assert any("20 of 60 scheduled (6 epochs)" in line for line in training.lines)
    assert responses.title == "Published responses: iter0, responses.jsonl"
    assert responses.rows[0][:3] == ("a", "7", "7")
    assert responses.lines[0] == "a: the same responses."


def test_nothing_released_is_no_block(tmp_path: Path) -> None:
    """Most runs have none."""
    path = write_reported_run(tmp_path / "b", small_recipe())
    assert list(released_blocks(RunDir(path), read_recipe(path))) == []


def test_they_stand_among_the_published_numbers_of_the_page(run: Path) -> None:
    """In the section of that name."""
    pytest.importorskip("matplotlib", reason="needs the report extra's matplotlib")
    from harness.report.html_report import write_report

    page = write_report(run).read_text()
    section = page[page.index('<section id="published">') : page.index('<section id="training">')]
    assert "Published training: iter0" in section
    assert "Published responses: iter0" in section


@pytest.mark.parametrize("command", ["training", "responses"])
def test_the_commands_work_from_files(run: Path, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """As JSON."""
    folder = run / "released/iter0"
    arguments = {
        "training": ["compare-training", run, "iter0", folder / "trainer_state.json"],
        "responses": ["compare-responses", 0, folder / "responses.jsonl", run],
    }
    monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments[command]), "--format", "json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    found = json.loads(capfd.readouterr().out)
    if command == "training":
        assert [curve["parts_at"] for curve in found["curves"]] == [None]
    else:
        assert (found[0]["identical"], found[0]["matched"]) == (7, 7)
