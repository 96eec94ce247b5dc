"""The command line selects and never tunes; what it prints can be parsed or read; a mistake is one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
from click import Command
from rich.cells import cell_len
from rich.console import Console

from harness import machine
from harness.artifact import RunDir
from harness.cli import main as cli
from harness.recipe import Recipe, load
from harness.runs import runner
from harness.runs.lock import hold
from tests import ROOT, SMALL, fake_stages
from tests.fake_stages import launched
from tests.small_disk import enlarge, small_disk
from tests.synthetic_runs import small_recipe, write_run

COMMANDS: dict[str, Command] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
SELECTING = {
    "cancel": {"out_dir"},
    "fetch": {"dry_run", "format"},
    "reproduce": {"out_dir", "machine", "only", "track", "dry_run", "help_"},
    "plan": {"out_dir", "machine", "format"},
    "status": {"out_dir", "format", "watch"},
    "recipes": {"format"},
    "diff": {"format"},
    "tables": {"format", "write"},
    "explain": {"format", "full"},
    "verify": {"format"},
    "accept": {"because", "out_dir"},
    "stage": set(),
    "sweep": {"out_dir", "machine", "track", "dry_run"},
    "export": {"out_dir", "layout", "license"},
    "pin": set(),
    "import-pairs": {"because", "split", "out_dir"},
    "anchors": {"out_dir", "machine", "dry_run", "format"},
    "compare-training": {"format"},
    "compare-responses": {"split", "format"},
    "import-judgments": {"format"},
    "judge-again": {"out_file", "protocol", "machine"},
    "agreement": {"format"},
    "import-results": {"format"},
    "compare-results": {"format"},
    "export-results": {"out_dir"},
    "machines": {"format"},
    "doctor": {"machine", "format"},
    "report": {"plots_dir"},
    "compare": {"samples", "format"},
    "bundle": {"out_file"},
    "pack": {"unfinished"},
    "card": {"out_file"},
    "push": {"yes", "public"},
    "index": set(),
    "rehearse": {"machine", "out_dir", "files", "format", "random_weights"},
}


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`harness("plan", "tiny")`: the console script, in this process."""

    monkeypatch.setattr(cli, "out", Console(width=80))

    def call(*args: object) -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, args)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small recipe whose stages are fakes."""
    path = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        fake_stages.use(patch)
        runner.reproduce(load(str(SMALL)), RunDir(path), machine.load("cpu"), None, lambda _: None)
    return path


def recipe_file(folder: Path, changes: str) -> Path:
    """A recipe of the user's: the small one with `changes`."""
    file = folder / "mine.py"
    file.write_text(
        f"from harness.recipe import Benchmark, Iteration, ModelRef, Sampling, load, replace\n"
        f"base = load({str(SMALL)!r})\nrecipe = replace(base, name='mine', {changes})\n"
    )
    return file


def assert_one_line(done: Done, *words: str) -> None:
    """Exit code 1 and a single `error:` line that holds `words`."""
    assert done.code == 1
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("error: ")
    assert [word for word in words if word not in done.err] == []


# Selecting, not tuning


def test_no_command_has_a_hyperparameter_flag() -> None:
    """Options choose what to run, where and how to print; no field of a recipe is among them."""
    found = {name: {p.name for p in command.params if p.param_type_name == "option"} for name, command in COMMANDS.items()}
    assert found == SELECTING
    assert {name for options in found.values() for name in options} & set(Recipe.model_fields) == {"because"}


@pytest.mark.parametrize("name", sorted(SELECTING))
def test_every_command_explains_itself(harness: Cli, name: str) -> None:
    """`--help` of each command ends with 0 and says what it does."""
    done = harness(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert str(COMMANDS[name].help).split(".")[0] in " ".join(done.out.split())


def test_stage_is_hidden_and_the_rest_is_listed(harness: Cli) -> None:
    """`harness --help` lists the commands a person calls, each in a panel of its own kind."""
    panels = re.split(r"^╭─ (\w+)", harness("--help").out, flags=re.MULTILINE)[1:]
    inside = [set(re.findall(r"^│ ([a-z][a-z-]+)", text, flags=re.MULTILINE)) for text in panels[1::2]]
    named = dict(zip(panels[::2], inside, strict=True))
    assert named == {
        "Options": set(),
        "Run": {"reproduce", "rehearse", "sweep", "import-pairs", "judge-again", "pin", "fetch", "cancel"},
        "Look": {"plan", "status", "recipes", "machines", "tables", "explain", "report", "index"},
        "Compare": {"diff", "anchors", "compare", "compare-training", "compare-responses", "compare-results", "agreement"},
        "Publish": {"export", "export-results", "bundle", "pack", "card", "push"},
        "Check": {"verify", "accept", "import-judgments", "import-results", "doctor"},
    }
    assert set().union(*named.values()) == {*SELECTING} - {"stage"}


def test_help_is_as_wide_as_the_terminal(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The panels reach from one side to the other."""
    for width in (60, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        assert max(len(line) for line in harness("--help").out.splitlines()) == width


def test_version(harness: Cli) -> None:
    """`--version` says the version of the distribution and nothing else."""
    assert harness("--version") == Done(0, f"harness {metadata.version('harness-spin')}\n", "")


def test_machines_are_listed_with_what_is_here(harness: Cli) -> None:
    """Every shipped machine, and the computer's GPUs, cores and memory."""
    text, found = harness("machines").out, json.loads(harness("machines", "--format", "json").out)
    assert {row["name"] for row in found["shipped"]} == set(machine.available())
    assert all(name in text for name in machine.available())
    assert "found here: " in text
    assert set(found["found"]) == {"gpus", "num_cpus", "memory_gb"}


def test_help_of_reproduce_lists_recipes_and_of_a_recipe_its_schedule(harness: Cli) -> None:
    """`reproduce --help` lists each recipe with its summary; `reproduce RECIPE --help` shows who plays whom, on what, how hard."""
    listed = harness("reproduce", "--help").out
    assert "--only" in listed
    assert "zephyr-7b-release" in listed
    shown = harness("reproduce", "zephyr-7b", "--help").out
    assert [line.split() for line in shown.splitlines() if line[:1].isdigit()] == [
        ["0", "sft", "0", "50000", "0.1", "5e-07", "2", "of", "2", "1562"],
        ["1", "iter0", "0,", "1", "100000", "0.1", "5e-07", "2", "of", "2", "3124"],
        ["2", "iter1", "1,", "2", "100000", "0.1", "1e-07", "2", "of", "2", "3124"],
        ["3", "iter2", "2,", "3", "100000", "5.0", "1e-07", "2", "of", "2", "3124"],
    ]


# Listings

LAYOUTS: dict[str, tuple[Sequence[str], set[str]]] = {
    "recipes": (("recipes",), {"name", "summary", "model", "iterations", "file"}),
    "status": (("status", "tiny"), {"path", "state", "seconds", "peak_memory_mb", "outputs", "job"}),
    "diff": (("diff", "zephyr-7b", "zephyr-7b-release"), {"field", "left", "right", "left_reason", "right_reason"}),
}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_json_of_listings_has_the_documented_layout(harness: Cli, name: str) -> None:
    """`--format json` is JSON and nothing else, a list of objects with the fields listing.py documents."""
    command, fields = LAYOUTS[name]
    rows = json.loads(harness(*command, "--format", "json").out)
    assert rows
    assert {frozenset(row) for row in rows} == {frozenset(fields)}


def test_json_of_a_plan_has_the_documented_layout(harness: Cli) -> None:
    """The plan's JSON holds stages with lineage and costs, their sums, the schedule and the deviations."""
    found = json.loads(harness("plan", "zephyr-7b", "--format", "json").out)
    costs = {"tokens", "flops", "hours", "device_hours", "memory_gb", "disk_gb", "judge_calls", "paper_hours"}
    known = {"measured_hours", "rehearsed_hours", "rehearsed_memory_gb"}
    assert set(found) == {"recipe", "machine", "stages", "totals", "assumptions", "warnings", "schedule", "deviations"}
    assert set(found["totals"]) == costs
    assert {frozenset(row) for row in found["stages"]} == {frozenset({"path", "kind", "state", "fingerprint", "inputs", *costs, *known})}
    assert set(found["schedule"][0]) == {"iteration", "opponent", "pairs_from", "pairs", "beta", "learning_rate", "epochs", "steps"}
    assert set(found["deviations"][0]) == {"field", "kind", "stated", "used", "source", "where", "reason"}


def test_json_of_verify_lists_damage(harness: Cli, run_dir: Path) -> None:
    """verify's JSON names damage, absent files and how many were checked, and its exit code says whether all is well."""
    done = harness("verify", run_dir, "--format", "json")
    assert (done.code, json.loads(done.out)["damage"]) == (0, [])
    score = run_dir / "sft/eval/distribution/scores/kl.json"
    score.write_text(score.read_text()[::-1])
    try:
        done = harness("verify", run_dir, "--format", "json")
        assert json.loads(done.out)["damage"][0]["path"] == "sft/eval/distribution/scores/kl.json"
        assert_one_line(done, "1 file")
    finally:
        score.write_text(score.read_text()[::-1])


def test_json_of_tables_and_explanations_parses(harness: Cli, tmp_path: Path) -> None:
    """A run's tables and the trace of one cell are JSON, and the trace leads to the score's file."""
    run = write_run(tmp_path / "run", small_recipe())
    table = harness("tables", run, "--format", "json")
    assert table.code == 0
    assert json.loads(table.out)
    found = harness("explain", run, "iter1", "gsm8k", "--format", "json")
    assert found.code == 0
    assert "iter1/eval/open_llm" in json.dumps(json.loads(found.out))


@pytest.mark.parametrize(
    "command",
    [("plan", "zephyr-7b"), ("plan", "tiny"), ("status", "tiny"), ("recipes",), ("diff", "zephyr-7b", "zephyr-7b-release"), ("--help",)],
    ids=" ".join,
)
def test_text_fits_80_columns(harness: Cli, command: Sequence[str]) -> None:
    """No line is longer than 80 characters, and no word of a first column or of a number is broken."""
    shown = harness(*command).out
    assert shown
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    if command[0] == "plan":
        paths = [stage["path"] for stage in json.loads(harness(*command, "--format", "json").out)["stages"]]
        assert [path for path in paths if shown.count(f"\n{path} ") != 2] == []


def test_wide_and_marked_up_text_survives(harness: Cli, tmp_path: Path) -> None:
    """Wide characters and square brackets of a recipe are printed as they are, and fit."""
    summary = "自己対戦による微調整 [bold]not markup[/bold] 🙂 " + "長い説明" * 20
    file = recipe_file(tmp_path, f"summary={summary!r}, because={{'engine': '理由 [x]'}}")
    shown = harness("plan", file)
    assert shown.code == 0
    assert "理由 [x]" in shown.out
    assert max(cell_len(line) for line in shown.out.splitlines()) <= 80
    assert "[bold]not markup[/bold] 🙂" in harness("reproduce", file, "--help").out.replace("\n", " ").replace("  ", " ")


# Running


def test_dry_run_runs_and_writes_nothing(harness: Cli, tmp_path: Path) -> None:
    """`--dry-run` shows every stage with its state and leaves no trace."""
    done = harness("reproduce", SMALL, "--out", tmp_path / "run", "--dry-run")
    assert done.code == 0
    assert done.out.count("missing") == 9
    assert list(tmp_path.iterdir()) == []


def test_status_follows_the_disk(harness: Cli, run_dir: Path) -> None:
    """A finished run's stages are done, each with its seconds and number of outputs."""
    rows = json.loads(harness("status", SMALL, "--out", run_dir, "--format", "json").out)
    assert {row["state"] for row in rows} == {"done"}
    assert all(row["seconds"] >= 0 and row["outputs"] >= 1 for row in rows)


def _heed_interrupts() -> None:
    """A job in the background is born deaf to Ctrl-C, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_run_says_so_and_continues(tmp_path: Path) -> None:
    """Ctrl-C ends the stage and the run with one line and no traceback; the stage is partial, and the lock is free."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tests.fake_stages", "reproduce", str(SMALL), "--out", str(out), "--only", "sft/*"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_STAGES": "sft/model wait"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT, start_new_session=True, preexec_fn=_heed_interrupts
    )
    deadline = time.monotonic() + 60
    while not (out / "sft/model/waits.tmp").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "sft/model was interrupted; the same command continues it"
    assert "Traceback" not in err
    again = subprocess.run(command, stderr=subprocess.PIPE, text=True, env={**env, "FAKE_STAGES": ""}, cwd=ROOT, check=False)
    assert "sft/model: continues" in again.stderr
    assert launched(out) == ["sft/model", "sft/model", "sft/eval/distribution"]


# Mistakes


@pytest.mark.parametrize("command", ["plan", "status", "reproduce"])
def test_misspelt_recipe(harness: Cli, command: str) -> None:
    """An unknown recipe gets a suggestion from every command that takes one."""
    assert_one_line(harness(command, "zephir-7b"), "no recipe called 'zephir-7b'", "did you mean 'zephyr-7b'?")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("prompt=1", ("mine.py: Recipe has no field 'prompt'", "did you mean 'prompts'?")),
        ("sampling=base.sampling.model_copy(update={'temprature': 1.0})", ("Sampling has no field 'temprature'", "'temperature'?")),
        ("iterations=({'beta': 0.1, 'learning_rat': 1e-7, 'pairs_from': (0,)},)", ("'iterations.0.learning_rat'", "'learning_rate'?")),
        ("benchmarks=({'name': 'x', 'protocol': 'y', 'taks': ()},)", ("'benchmarks.0.taks'", "'tasks'?")),
        ("sft_model=ModelRef(source='hub', name='a/b', revision='main')", ("a/b is pinned to revision 'main'", "40-hex commit")),
        ("prompts={'source': 'hub', 'dataset': 'a/b', 'num_prompts': 9}", ("a/b is pinned to revision None", "40-hex commit")),
        ("engine='vlm'", ("no engine called 'vlm'", "did you mean 'vllm'?")),
        ("objective='spni'", ("no objective called 'spni'", "did you mean 'spin'?")),
        ("benchmarks=(Benchmark(name='open_lm', protocol='x', tasks=()),)", ("no benchmark called 'open_lm'", "'open_llm'?")),
        ("global_batch_size=128", ("iterations.0 has 64 pairs, fewer than one global batch of 128",)),
        ("max_prompt_length=96", ("max_prompt_length 96 leaves a response no token of max_length 96",)),
        ("iterations=(Iteration(beta=-1, learning_rate=1e-3, pairs_from=(0,)),)", ("Iteration.beta", "greater than 0", "found -1")),
        ("precision='fp64'", ("Recipe.precision", "'fp32' or 'bf16'", "found 'fp64'")),
        ("seed=1/0", ("mine.py line 3: ZeroDivisionError",)),
        ("seed=base.sed", ("mine.py line 3: AttributeError", "'sed'")),
    ],
)
def test_wrong_recipe_file(harness: Cli, tmp_path: Path, changes: str, words: Sequence[str]) -> None:
    """Whatever is wrong in a recipe file is one line with the file's name, what was found, and the near name where one is misspelt."""
    assert_one_line(harness("plan", recipe_file(tmp_path, changes)), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("recipe = 3\n", ("`recipe` is a int, expected a harness.recipe.Recipe",)),
        ("x = 3\n", ("mine.py defines no `recipe`",)),
        ("recipe = = 3\n", ("mine.py line 1: SyntaxError",)),
        ("import nosuchmodule\n", ("mine.py line 1: ModuleNotFoundError",)),
    ],
)
def test_file_that_is_no_recipe(harness: Cli, tmp_path: Path, content: str, words: Sequence[str]) -> None:
    """A file without a recipe says what was expected of it."""
    (tmp_path / "mine.py").write_text(content)
    assert_one_line(harness("reproduce", tmp_path / "mine.py"), *words)


@pytest.mark.parametrize("command", ["plan", "reproduce"])
def test_global_batch_the_devices_cannot_divide(harness: Cli, tmp_path: Path, command: str) -> None:
    """A batch of 16 on 3 devices is refused by plan and reproduce, before anything is written or started."""
    file = tmp_path / "three.py"
    file.write_text("from harness.machine import load\nmachine = load('cpu').model_copy(update={'name': 'three', 'num_devices': 3})\n")
    done = harness(command, SMALL, "--machine", file, "--out", tmp_path / "run")
    assert_one_line(done, "global_batch_size of 16 pairs cannot be divided among the 3 devices of machine 'three'", "use a machine whose")
    assert not (tmp_path / "run").exists()


def test_unknown_machine(harness: Cli) -> None:
    """A misspelt machine gets a suggestion."""
    assert_one_line(harness("plan", "tiny", "--machine", "a100x9"), "no machine called 'a100x9'", "did you mean 'a100x8'?")


def test_directory_that_cannot_be_used(harness: Cli, tmp_path: Path) -> None:
    """A file in the place of the run's directory is the user's mistake, not a defect."""
    (tmp_path / "file").touch()
    assert_one_line(harness("reproduce", SMALL, "--out", tmp_path / "file"), "expected a directory that can be written to")
    assert_one_line(harness("reproduce", SMALL, "--out", tmp_path / "file" / "run"), "expected a directory that can be written to")
    (tmp_path / "run" / ".claim").mkdir(parents=True)
    assert_one_line(harness("reproduce", SMALL, "--out", tmp_path / "run"), ".claim: Is a directory; expected a file there")


@pytest.mark.parametrize("command", [("verify",), ("tables",), ("explain", "iter0", "kl")])
def test_directory_without_a_run(harness: Cli, tmp_path: Path, command: Sequence[str]) -> None:
    """Commands that read a run say what a run's directory looks like."""
    assert_one_line(harness(command[0], tmp_path, *command[1:]), "holds no recipe.json", "such as results/tiny")


def test_second_run_is_refused(harness: Cli, tmp_path: Path) -> None:
    """While one process works in a directory another is refused with its pid."""
    with hold(tmp_path):
        assert_one_line(harness("reproduce", SMALL, "--out", tmp_path), f"is in use by pid {os.getpid()} on ", "wait for it or stop it")


def test_failing_stage_is_explained_by_the_stage(harness: Cli, tmp_path: Path) -> None:
    """A real stage's own error is the one `error:` line; the runner adds which stage stopped. After repair the command continues."""
    file = recipe_file(tmp_path, "prompts=base.prompts.model_copy(update={'split': 'nosuch'})")
    done = harness("reproduce", file, "--out", tmp_path / "run", "--only", "prompts")
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[0] == "[1/1] prompts: starts"
    assert lines[1].startswith("error: ")
    assert lines[2:] == ["prompts stopped; what it had finished is kept, and the same command continues it"]


def test_a_dry_run_of_some_stages_shows_these(harness: Cli, tmp_path: Path) -> None:
    """What --only would run is what --dry-run shows, and a glob that matches none is the same mistake."""
    shown = harness("reproduce", SMALL, "--out", tmp_path / "run", "--only", "sft/*", "--dry-run")
    assert shown.code == 0
    assert "sft/model" in shown.out
    assert "iter0/generate" not in shown.out
    assert_one_line(harness("reproduce", SMALL, "--out", tmp_path / "run", "--only", "nonsense", "--dry-run"), "matches no stage")


def test_some_stages_renew_the_tables_that_are_there(harness: Cli, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a run writes no tables where there are none, and leaves none that are older than its scores."""
    renewed = []
    monkeypatch.setattr(cli, "write_tables", renewed.append)
    path = shutil.copytree(run_dir, tmp_path / "run")
    assert harness("reproduce", SMALL, "--out", path, "--only", "sft/*").code == 0
    assert renewed == []
    (path / "tables").mkdir()
    assert harness("reproduce", SMALL, "--out", path, "--only", "sft/*").code == 0
    assert renewed == [path]


def test_defect_keeps_its_traceback(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not a user's mistake shows where it happened and exits with 70."""
    monkeypatch.setattr(cli.listings, "recipe_list", lambda: [][0])
    done = harness("recipes")
    assert done.code == 70
    assert "IndexError" in done.err
    assert "Traceback" in done.err


def test_full_disk_in_the_runner_is_one_line(harness: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ENOSPC on the runner's own files says that nothing is lost and what to do."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_one_line(harness("reproduce", SMALL, "--out", tmp_path), "disk full while writing recipe.json", "free space and run")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    with small_disk(tmp_path / "disk", "16k") as folder:
        yield folder


def test_full_disk_in_a_stage_loses_nothing(harness: Cli, tiny_disk: Path) -> None:
    """On a really full disk a real stage says so in one `error:` line; with more room the same command finishes it."""
    command = ("reproduce", SMALL, "--out", tiny_disk / "run", "--only", "prompts")
    done = harness(*command)
    assert done.code == 1
    assert [line for line in done.err.splitlines() if line.startswith("error: disk full while writing ")]
    assert "Traceback" not in done.err
    enlarge(tiny_disk, "1m")
    done = harness(*command)
    assert "prompts: finished" in done.err
    assert RunDir(tiny_disk / "run").record("prompts") is not None


def test_wrong_usage_is_no_traceback(harness: Cli) -> None:
    """Unknown commands and options end with click's usage and exit code 2, without a traceback."""
    for args in (("reproduce", "tiny", "--beta", "3"), ("nosuch",), ("plan",), ("plan", "tiny", "--format", "yaml")):
        done = harness(*args)
        assert done.code == 2
        assert "Usage" in done.err
        assert "Traceback" not in done.err
