"""A file of the user's own stands in for a component: found beside the recipe, kept with the run, part of the identity."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import recipe as recipes
from harness.artifact import RunDir, read_recipe
from harness.cli.doctor import preflight
from harness.cli.preflight import context_for, recipe_checks
from harness.contracts import load
from harness.contracts.own_files import pinned
from harness.errors import InputError, MachineError, RecipeError, StaleError
from harness.files import KEPT_IN, keep, kept, pin
from harness.machine import load as load_machine
from harness.plan import plan
from harness.recipe import Recipe
from harness.recipe import load as load_recipe
from harness.runs import runner
from tests import ROOT
from tests.tiny_family import fake_stages, quiet

LOSS = '''"""The hinge loss with a slope of its own."""

import torch

from harness.contracts import PairLogps

VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "D"


def loss(logps: PairLogps, beta: float) -> torch.Tensor:
    """One loss per pair (B,)."""
    return torch.relu(1.0 - beta * logps.margin)
'''
RECIPE = """
from harness.recipe import replace
from tests.tiny_family import small_recipe

recipe = replace(small_recipe("own"), name="own", objective="losses/mine.py", rivals={}, controls={})
"""


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test keeps, no other finds."""
    monkeypatch.setenv(KEPT_IN, "")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a recipe and a loss beside it."""
    (tmp_path / "home/losses").mkdir(parents=True)
    (tmp_path / "home/losses/mine.py").write_text(LOSS)
    (tmp_path / "home/mine.py").write_text(RECIPE)
    return tmp_path / "home"


def loaded(home: Path) -> Recipe:
    return recipes.load(str(home / "mine.py"))


def identities(recipe: Recipe) -> dict[str, str]:
    return {stage.path: stage.fingerprint for stage in plan(recipe)}


def test_a_path_is_relative_to_the_recipes_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command is given, the file beside the recipe is meant; its folder's name is no part of the identity."""
    monkeypatch.chdir("/")
    found = identities(loaded(home))
    moved = home.rename(home.with_name("elsewhere"))
    assert identities(loaded(moved)) == found


def test_one_character_makes_its_training_stale_and_names_the_file(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the trainings with the changed loss and what follows from them are stale, and the refusal names the file."""
    fake_stages(monkeypatch)
    run, machine = RunDir(tmp_path / "run"), load_machine("cpu1")
    runner.reproduce(loaded(home), run, machine, None, quiet)
    path = home / "losses/mine.py"
    path.write_text(LOSS.replace("relu(1.0", "relu(1.1"))
    stale = {found.stage.path for found in runner.survey(loaded(home), run) if found.state == "stale"}
    after = {stage.path for stage in plan(loaded(home)) if stage.path.startswith("iter") and stage.path != "iter0/generate"}
    assert stale == after
    with pytest.raises(StaleError, match=r"iter0/train: objective is 'mine.py@[0-9a-f]{16}' on disk, 'mine.py@[0-9a-f]{16}' in the recipe"):
        runner.reproduce(loaded(home), run, machine, None, quiet)
    path.write_text(LOSS)
    assert runner.reproduce(loaded(home), run, machine, None, quiet) == 0


def test_a_run_needs_neither_the_recipes_file_nor_its_place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's directory, carried elsewhere, plans the same stages from its own copy; recipe.json names no path."""
    fake_stages(monkeypatch)
    run = RunDir(tmp_path / "run")
    runner.reproduce(loaded(home), run, load_machine("cpu1"), None, quiet)
    found = identities(loaded(home))
    assert json.loads((run.path / "recipe.json").read_text())["objective"] == pin(home / "losses/mine.py")
    shutil.rmtree(home)
    moved = run.path.rename(tmp_path / "carried")
    monkeypatch.setenv(KEPT_IN, "")
    assert identities(read_recipe(moved)) == found
    assert load("objectives", read_recipe(moved).objective).VERSION == 1
    (copy,) = moved.glob("files/*/mine.py")
    copy.write_text(LOSS + "\n")
    with pytest.raises(InputError, match=r"mine.py@\w+ is not kept with the run, or was changed there"):
        plan(read_recipe(moved))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LOSS.replace("-> torch.Tensor:", "-> torch.Tensor"), "mine.py line 13: SyntaxError: expected ':'; correct the file"),
        (LOSS.replace("VERSION = 1", "VERSION = one"), "mine.py line 7: VERSION is not a literal; write `VERSION = 1`"),
        (LOSS.replace("VERSION = 1\n", ""), "mine.py states no VERSION; add `VERSION = 1`"),
        (LOSS.replace("VERSION = 1", "VERSION = 'one'"), "mine.py: VERSION is 'one', expected a whole number such as 1"),
        (LOSS.replace('("real", "generated")', '("generated",)'), r"mine.py: BRANCHES is \('generated',\), expected a beginning of"),
        (LOSS.replace("OPPONENT = True", "OPPONENT = 'yes'"), "mine.py: OPPONENT is 'yes', expected True or False"),
        (LOSS.replace('GRADE = "D"', 'GRADE = "Z"'), "mine.py: GRADE is 'Z', expected one of A, B"),
        (LOSS.replace("def loss(", "def penalty("), "mine.py defines no function `loss`"),
        (LOSS.replace("beta: float)", "beta: float, *, mu: float)"), r"objective '.*mine.py' takes \['mu'\]"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(home: Path, text: str, message: str) -> None:
    """What is wrong in the file is one line of what was found and what to do, before anything runs."""
    (home / "losses/mine.py").write_text(text)
    with pytest.raises(RecipeError, match=message):
        plan(loaded(home))


def test_a_file_that_is_not_there_is_named(home: Path) -> None:
    """A misspelt path is an error that says what paths are relative to."""
    (home / "losses/mine.py").unlink()
    with pytest.raises(RecipeError, match=r"objective file .*losses/mine.py does not exist; a path in a recipe is relative to the recipe"):
        plan(loaded(home))


def test_what_fails_while_a_stage_runs_is_named_with_its_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that passed through the file, however deep it came from, names the file's own line and no traceback."""
    path = home / "losses/mine.py"
    path.write_text(LOSS.replace("beta * logps.margin", "beta * logps.edge"))
    objective = load("objectives", str(path))
    said = r"mine.py line 15: AttributeError: .*edge.*; correct the file, and remove run/iter0/train, which was begun with it as it is"
    with pytest.raises(RecipeError, match=said), runner._naming_own_files(Path("run/iter0/train")):
        objective.loss(object(), 1.0)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return torch.relu(1.0 - beta * logps.margin).mean()", r"returned shape \(\), expected \(4,\), one value a pair"),
        ("return (1.0 - beta * logps.margin)[:, None]", r"returned shape \(4, 1\), expected \(4,\)"),
        ("return (1.0 - beta * logps.margin)[:2]", r"returned shape \(2,\), expected \(4,\)"),
        ("return logps.policy_real[:, None] - logps.policy_generated", r"returned shape \(4, 4\), expected \(4,\)"),
        ("return 1.0", "returned a float, expected a tensor of shape"),
        ("pass", "returned a NoneType, expected a tensor of shape"),
        ("return torch.ones_like(logps.margin)", "does not follow from the policy's log-probabilities: it has no gradient"),
        ("raise ValueError('boom')", "mine.py line 15: ValueError: boom; correct the file"),
    ],
)
def test_a_loss_that_is_none_is_told_before_anything_is_spent(home: Path, body: str, says: str) -> None:
    """Promise: every way to miss one loss a pair is one line, from the doctor and at the start of a run, and no stage has begun."""
    (home / "losses/mine.py").write_text(LOSS.replace("return torch.relu(1.0 - beta * logps.margin)", body))
    with pytest.raises(MachineError, match=says):
        preflight(context_for(loaded(home), "cpu", home / "run"))
    assert not (home / "run").exists()


def test_a_margin_without_an_opponent_says_what_it_needs(home: Path) -> None:
    """Promise: an objective that states no opponent and reads its margin is told so."""
    (home / "losses/mine.py").write_text(LOSS.replace("OPPONENT = True", "OPPONENT = False"))
    with pytest.raises(MachineError, match=r"mine.py line 15: AssertionError: the margin needs OPPONENT = True; correct the file"):
        preflight(context_for(loaded(home), "cpu", home / "run"))


def test_a_good_loss_is_tried_once(home: Path) -> None:
    """Promise: the doctor says that it gives one loss a pair; harness's own losses are not asked."""
    found = {one.found for one in recipe_checks(context_for(loaded(home), "cpu", home / "run")) if one.check == "objective"}
    assert len(found) == 1
    assert next(iter(found)).startswith("mine.py@")
    assert not [one for one in recipe_checks(context_for(load_recipe("tiny"), "cpu", home / "run")) if one.check == "objective"]


def test_a_dataclass_in_an_own_file_works(tmp_path: Path) -> None:
    """The file is a module like any other: what looks its own module up finds it."""
    path = tmp_path / "judge.py"
    path.write_text("from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass A:\n    x: int = 1\n")
    assert load("judges", str(path)).A().x == 1


def test_a_folder_is_pinned_by_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and bytes count, caches and hidden files do not; the copy is found by its pinned name."""
    folder = tmp_path / "tasks"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/a.yaml").write_text("task: a\n")
    found = pin(folder)
    (folder / ".hidden").write_text("x")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/a.pyc").write_text("x")
    assert pin(folder) == found
    keep(folder, tmp_path / "kept")
    monkeypatch.setenv(KEPT_IN, str(tmp_path / "kept"))
    assert (kept(found) / "inner/a.yaml").read_text() == "task: a\n"
    (folder / "inner/a.yaml").rename(folder / "inner/b.yaml")
    assert pin(folder) != found


PACKAGED = """
import json, sys
from harness.contracts import load, version
from harness.contracts.own_files import pinned
name = pinned("judges", "yes")
print(json.dumps([name, version("judges", "yes"), load("judges", name).parse("7"), "yes_package.judge" in sys.modules]))
"""


def test_an_installed_package_offers_components(tmp_path: Path) -> None:
    """A module of the entry-point group is known by its entry's name, and its file's bytes are in the identity."""
    package, about = tmp_path / "yes_package", tmp_path / "yes_package-1.0.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").write_text("")
    (package / "judge.py").write_text("VERSION = 4\nNEEDS_MODEL = False\n\n\ndef parse(verdict):\n    return float(verdict)\n")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: yes-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[harness.judges]\nyes = yes_package.judge\n")
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", PACKAGED], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [f"yes@{pin(package / 'judge.py').rpartition('@')[2]}", 4, 7.0, True]


def test_shipped_components_keep_their_names() -> None:
    """What is harness's own is named as ever, so that no finished work becomes stale."""
    assert pinned("objectives", "spin") == "spin"
