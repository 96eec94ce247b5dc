"""Finished work is never redone, unfinished work continues, other work is refused; what is on disk can be checked."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import machine
from harness.artifact import RunDir, content_of, read_recipe
from harness.errors import InputError, StageError, StaleError
from harness.files import read_model
from harness.plan import plan
from harness.recipe import Iteration, Recipe, load, replace
from harness.runs import runner
from harness.runs.verification import verify
from tests import SMALL, fake_stages
from tests.fake_stages import launched

CPU = machine.load("cpu")
RECIPE = load(str(SMALL))
PATHS = [stage.path for stage in plan(RECIPE)]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_stages.use(monkeypatch)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        fake_stages.use(patch)
        path = tmp_path_factory.mktemp("run") / "small"
        runner.reproduce(RECIPE, RunDir(path), CPU, None, lambda _: None)
    return path


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> RunDir:
    """A finished run whose launches are forgotten."""
    shutil.copytree(finished_once, tmp_path / "small")
    (tmp_path / "small" / fake_stages.LAUNCHES).unlink()
    return RunDir(tmp_path / "small")


def reproduce(run: RunDir, recipe: Recipe = RECIPE, only: str | None = None) -> list[str]:
    """Run, and return what was announced."""
    lines: list[str] = []
    runner.reproduce(recipe, run, CPU, only, lines.append)
    return lines


def with_beta(t: int, beta: float) -> Recipe:
    iterations = [iteration.model_copy(update={"beta": beta}) if i == t else iteration for i, iteration in enumerate(RECIPE.iterations)]
    return replace(RECIPE, name="small", iterations=tuple(iterations))


# Done, continue, refuse


def test_each_stage_runs_once_and_never_again(tmp_path: Path) -> None:
    """The first command runs every stage in the plan's order, the second none."""
    run = RunDir(tmp_path / "new")
    lines = reproduce(run)
    assert launched(run.path) == PATHS
    assert lines[0] == f"[1/{len(PATHS)}] sft/model: starts"
    assert reproduce(run) == [f"[{i}/{len(PATHS)}] {path}: done earlier" for i, path in enumerate(PATHS, 1)]
    assert launched(run.path) == PATHS


def test_unfinished_stage_continues_alone(finished: RunDir) -> None:
    """A stage without done.json is launched again in its own directory; what follows it is finished and stays."""
    (finished.stage_dir("iter0/train") / "done.json").unlink()
    assert next(line for line in reproduce(finished) if "done earlier" not in line).endswith("iter0/train: continues")
    assert launched(finished.path) == ["iter0/train"]
    launch = finished.launch("iter0/train")
    assert launch is not None
    assert len(launch.launches) == 2


def test_changed_beta_is_refused_with_its_field(finished: RunDir) -> None:
    """Another beta in iteration 1 makes stale its training and evaluation, names the field with both values, and starts nothing."""
    changed = with_beta(1, 0.5)
    states = {found.stage.path: found.state for found in runner.survey(changed, finished)}
    assert [path for path, state in states.items() if state == "stale"] == ["iter1/train", "iter1/eval/distribution"]
    with pytest.raises(StaleError) as caught:
        reproduce(finished, changed)
    message = str(caught.value)
    assert "iter1/train: beta is 0.1 on disk, 0.5 in the recipe" in message
    assert "iter1/eval/distribution: follows from its inputs iter1/train" in message
    assert "harness accept" in message
    assert launched(finished.path) == []


def test_removed_directories_are_made_again(finished: RunDir) -> None:
    """The third way out of a refusal: without the stale directories the same command makes them, and nothing else."""
    for path in ("iter1/train", "iter1/eval"):
        shutil.rmtree(finished.path / path)
    reproduce(finished, with_beta(1, 0.5))
    assert launched(finished.path) == ["iter1/train", "iter1/eval/distribution"]


def test_renamed_recipe_keeps_its_work(finished: RunDir) -> None:
    """A name is no identity: under --out the same stages are done; recipe.json says the new name."""
    reproduce(finished, replace(RECIPE, name="other"))
    assert launched(finished.path) == []
    assert read_recipe(finished.path).name == "other"


def test_shortened_recipe_leaves_the_rest_alone(finished: RunDir) -> None:
    """Stages the recipe no longer plans are neither run, refused nor removed."""
    reproduce(finished, replace(RECIPE, name="small", iterations=RECIPE.iterations[:1]))
    assert launched(finished.path) == []
    assert finished.record("iter1/train") is not None


# Leftovers


def test_finished_stage_without_its_outputs_says_how_to_rebuild(finished: RunDir) -> None:
    """done.json alone is not enough: the missing file is named, and what the message says to do works."""
    (finished.stage_dir("sft/model") / "checkpoint" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing.*; remove sft/model/done\.json and sft/model/checkpoint, and run"):
        reproduce(finished)
    (finished.stage_dir("sft/model") / "done.json").unlink()
    shutil.rmtree(finished.stage_dir("sft/model") / "checkpoint")
    reproduce(finished)
    assert launched(finished.path) == ["sft/model"]
    assert verify(finished)[0] == []


def test_damaged_stage_file_is_named(finished: RunDir) -> None:
    """A cut stage.json stops the run with its path; removing the directory as told makes the stage again."""
    path = finished.stage_dir("iter0/generate") / "stage.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"iter0/generate/stage\.json is not a readable launch .*remove its directory"):
        reproduce(finished)
    shutil.rmtree(path.parent)
    reproduce(finished)
    assert launched(finished.path) == ["iter0/generate"]


def test_files_nobody_can_explain_are_not_built_upon(finished: RunDir) -> None:
    """A checkpoint without stage.json is not taken for the recipe's, nor is a done.json."""
    (finished.stage_dir("iter0/train") / "stage.json").unlink()
    with pytest.raises(InputError, match=r"iter0/train holds files but no stage\.json"):
        reproduce(finished)
    shutil.rmtree(finished.stage_dir("iter0/train") / "checkpoint")
    (finished.stage_dir("iter0/train") / "log.jsonl").unlink()
    with pytest.raises(InputError, match=r"iter0/train holds files but no stage\.json"):
        reproduce(finished)


@pytest.mark.parametrize("is_done", [True, False])
def test_work_from_other_bytes_is_refused(finished: RunDir, monkeypatch: pytest.MonkeyPatch, is_done: bool) -> None:
    """Where an input was made again with other bytes, what was begun from the old ones is neither used nor continued."""
    shutil.rmtree(finished.stage_dir("sft/model"))
    if not is_done:
        (finished.stage_dir("iter0/generate") / "done.json").unlink()
        shutil.rmtree(finished.path / "sft" / "eval")
    monkeypatch.setenv("FAKE_BYTES", "other")
    with pytest.raises(InputError, match=r"was made from other bytes of sft/model than those there now; remove"):
        reproduce(finished)
    assert launched(finished.path)[0] == "sft/model"
    assert "iter0/generate" not in launched(finished.path)


def test_training_log_bears_no_identity(finished: RunDir) -> None:
    """A training made again with the same weights and other timings leaves what was made from it valid."""
    shutil.rmtree(finished.stage_dir("iter0/train"))
    reproduce(finished)
    assert launched(finished.path) == ["iter0/train"]
    assert verify(finished)[0] == []


def test_swapped_input_is_refused_before_it_is_read(finished: RunDir) -> None:
    """Another checkpoint of the same size in an input's place is found by its bytes, whatever its times say; put back, all goes on."""
    ours, other = (finished.stage_dir(path) / "checkpoint" / "model.safetensors" for path in ("iter1/train", "iter0/train"))
    kept, times = ours.read_bytes(), ours.stat()
    shutil.rmtree(finished.stage_dir("iter1/eval/distribution"))
    shutil.copyfile(other, ours)
    os.utime(ours, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match=r"iter1/train/checkpoint/model\.safetensors is not what its record says.*put back"):
        reproduce(finished)
    assert launched(finished.path) == []
    ours.write_bytes(kept)
    reproduce(finished)
    assert launched(finished.path) == ["iter1/eval/distribution"]
    assert verify(finished)[0] == []


def test_file_beside_an_inputs_outputs_is_refused(finished: RunDir) -> None:
    """A stage reads whole directories, so a file there that no record lists is no input."""
    shutil.rmtree(finished.stage_dir("iter1/train"))
    shutil.rmtree(finished.stage_dir("iter1/eval/distribution"))
    added = finished.stage_dir("iter1/generate") / "responses" / "00001.jsonl"
    added.write_text("{}")
    with pytest.raises(InputError, match=r"iter1/generate/responses/00001\.jsonl is not in its stage's record; remove it"):
        reproduce(finished)
    assert launched(finished.path) == []


@pytest.mark.parametrize("end", ["swap", "swap exit 1"])
def test_input_that_changes_while_it_is_read_is_never_built_upon(finished: RunDir, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A checkpoint exchanged during its evaluation: no record is written, and the evaluation does not go on from what it has."""
    shutil.rmtree(finished.stage_dir("iter1/eval/distribution"))
    checkpoint = finished.stage_dir("iter1/train") / "checkpoint" / "model.safetensors"
    kept = checkpoint.read_bytes()
    monkeypatch.setenv("FAKE_STAGES", f"iter1/eval/distribution {end}")
    with pytest.raises(InputError, match=r"iter1/train changed while iter1/eval/distribution read it; put it back.*remove iter1/eval/dist"):
        reproduce(finished)
    monkeypatch.delenv("FAKE_STAGES")
    checkpoint.write_bytes(kept)
    with pytest.raises(InputError, match=r"was made from other bytes of iter1/train than those there now; remove"):
        reproduce(finished)
    assert finished.record("iter1/eval/distribution") is None
    shutil.rmtree(finished.stage_dir("iter1/eval/distribution"))
    reproduce(finished)
    assert verify(finished)[0] == []


# Parts of a run


def test_only_runs_what_matches(tmp_path: Path) -> None:
    """--only is a glob over stage paths."""
    run = RunDir(tmp_path / "new")
    assert len(reproduce(run, only="*prompts")) == 2
    reproduce(run, only="sft/*")
    assert launched(run.path) == ["prompts", "sft/model", "sft/eval/distribution"]


def test_only_names_the_inputs_that_are_missing(tmp_path: Path) -> None:
    """A stage whose inputs are not there is refused before anything starts, however late it stands in the selection."""
    run = RunDir(tmp_path / "new")
    with pytest.raises(InputError, match="iter0/train needs sft/model and prompts and iter0/generate, not finished yet; run that first"):
        reproduce(run, only="iter0/train")
    assert not (run.path / "iter0").exists()
    assert not (run.path / "recipe.json").exists()


def test_only_without_a_match_suggests(tmp_path: Path) -> None:
    """A glob that matches nothing is an error with the near stage."""
    with pytest.raises(InputError, match="--only 'iter0/trian' matches no stage; did you mean 'iter0/train'"):
        reproduce(RunDir(tmp_path), only="iter0/trian")


# Failures of a stage


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("exit 1", "iter0/train stopped; what it had finished is kept, and the same command continues it"),
        ("exit 70", r"iter0/train ended with exit code 70 \(its traceback is above\)"),
        ("kill 9", r"iter0/train was killed \(signal 9\): out of memory, or by hand"),
        ("kill 11", r"iter0/train was ended by signal 11 \(Segmentation fault\); the same command continues it"),
    ],
)
def test_failed_stage_stops_the_run_and_is_continued(finished: RunDir, monkeypatch: pytest.MonkeyPatch, what: str, message: str) -> None:
    """Whatever ends a stage's process, the message says which kind it was; the same command goes on from there."""
    for path in ("iter0/train", "iter0/eval", "iter1"):
        shutil.rmtree(finished.path / path)
    monkeypatch.setenv("FAKE_STAGES", f"iter0/train {what}")
    with pytest.raises(StageError, match=message):
        reproduce(finished)
    assert finished.record("iter0/train") is None
    monkeypatch.delenv("FAKE_STAGES")
    reproduce(finished)
    assert launched(finished.path) == ["iter0/train", *PATHS[PATHS.index("iter0/train") :]]


def test_stage_runs_by_hand_from_its_directory_alone(tmp_path: Path) -> None:
    """`harness stage DIR` needs nothing but the directory and those of its inputs."""
    run = RunDir(tmp_path / "run")
    prompts = next(stage for stage in plan(RECIPE) if stage.kind == "prompts")
    run.begin(prompts, CPU, {})
    runner.run_stage(run.stage_dir("prompts"))
    assert len((run.stage_dir("prompts") / "prompts.jsonl").read_text().splitlines()) == RECIPE.prompts.num_prompts
    with pytest.raises(InputError, match=r"has no stage\.json; expected a stage's directory"):
        runner.run_stage(tmp_path)


# Accept


def test_accepted_work_is_kept_with_its_reason(finished: RunDir) -> None:
    """`accept` keeps finished work under the new identity, records difference and reason, and leaves a run that verifies."""
    changed = with_beta(1, 0.5)
    shown = runner.accept(changed, finished, "iter1/train", "0.1 and 0.5 were compared before")
    assert shown == [("spec.beta", 0.1, 0.5)]
    reproduce(finished, changed)  # what was made from it is kept with it
    assert launched(finished.path) == []
    kept = {path: finished.launch(path) for path in ("iter1/train", "iter1/eval/distribution")}
    found = {path: [(one.because, one.follows) for one in launch.accepted] for path, launch in kept.items() if launch}
    reason = "0.1 and 0.5 were compared before"
    assert found == {"iter1/train": [(reason, None)], "iter1/eval/distribution": [(reason, "iter1/train")]}
    assert verify(finished)[0] == []


def test_what_changed_beside_its_inputs_is_not_kept_along(finished: RunDir) -> None:
    """Promise: a stage made from accepted work, but with another value of its own, asks for a reason of its own."""
    changed = with_beta(1, 0.5)
    both = changed.model_copy(update={"iterations": tuple(one.model_copy(update={"beta": 0.5}) for one in changed.iterations)})
    runner.accept(both, finished, "iter0/train", "the same to us")
    with pytest.raises(StaleError, match=r"iter1/train: beta is 0\.1 on disk, 0\.5 in the recipe"):
        reproduce(finished, both)
    runner.accept(both, finished, "iter1/train", "likewise")
    reproduce(finished, both)
    assert launched(finished.path) == []


def test_work_made_from_other_pairs_can_be_accepted(finished: RunDir) -> None:
    """Accepting a training whose recipe now reads other responses does not claim that it read them."""
    changed = replace(RECIPE, name="small", iterations=(RECIPE.iterations[0], Iteration(beta=0.1, learning_rate=1e-3, pairs_from=(1,))))
    runner.accept(changed, finished, "iter1/train", "the same to us")
    reproduce(finished, changed)
    assert launched(finished.path) == []
    assert verify(finished)[0] == []


def test_what_cannot_be_accepted_says_why(finished: RunDir, tmp_path: Path) -> None:
    """An unknown stage, unfinished work and unchanged work are refused, and nothing is written."""
    with pytest.raises(InputError, match="plans no stage 'iter0/trian'; did you mean 'iter0/train'"):
        runner.accept(RECIPE, finished, "iter0/trian", "x")
    with pytest.raises(InputError, match="already has the recipe's identity"):
        runner.accept(RECIPE, finished, "iter0/train", "x")
    with pytest.raises(InputError, match="is not finished; only finished work can be accepted"):
        runner.accept(RECIPE, RunDir(tmp_path / "none"), "iter0/train", "x")
    assert not (tmp_path / "none").exists()


# Verify


@pytest.mark.parametrize(
    "name",
    ["iter0/train/checkpoint/model.safetensors", "iter1/generate/responses/00000.jsonl", "sft/eval/distribution/scores/kl.json"],
)
def test_verify_finds_one_flipped_byte(finished: RunDir, name: str) -> None:
    """A single byte in a checkpoint, a response file or a score is found and named, and nothing else is."""
    assert verify(finished)[0] == []
    path = finished.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    damage = verify(finished).damage
    assert [(item.path, item.reason) for item in damage] == [(name, "its bytes differ from the recorded sha256")]


def test_committed_subset_verifies(finished: RunDir) -> None:
    """Without what .gitignore leaves out the rest still verifies, and the absent files are listed, not forgotten."""
    before = verify(finished).checked
    for path in [*finished.path.rglob("checkpoint"), *finished.path.rglob("responses")]:
        shutil.rmtree(path)
    damage, absent, checked, _ = verify(finished)
    assert damage == []
    assert len(absent) == 5
    assert checked == before - 5


def test_verify_finds_a_rebuilt_input(finished: RunDir) -> None:
    """A stage made from other bytes than those its input's record now states is damage, though every file matches its own record."""
    shutil.rmtree(finished.stage_dir("iter0/generate"))
    (finished.path / "iter1").rename(finished.path.parent / "away")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_BYTES", "other")
        reproduce(finished, only="iter0/generate")
    (finished.path.parent / "away").rename(finished.path / "iter1")
    damage = [item.reason for item in verify(finished)[0]]
    assert damage == ["was made from other bytes of iter0/generate than those there now"] * 2


def test_verify_reports_unfinished_and_exchanged_records(finished: RunDir) -> None:
    """An unfinished stage and a done.json of another identity are damage."""
    (finished.stage_dir("sft/eval/distribution") / "done.json").unlink()
    done = finished.stage_dir("iter1/train") / "done.json"
    done.write_text(done.read_text().replace(json.loads(done.read_text())["fingerprint"], "0" * 64))
    reasons = {item.path: item.reason for item in verify(finished)[0]}
    assert reasons == {
        "sft/eval/distribution": "not finished",
        "iter1/train": "done.json and stage.json disagree about the fingerprint",
    }


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The JSON file at `path`, changed."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


EVALUATION = "iter1/eval/distribution"
DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "spec": (
        lambda run: rewritten(run / "iter1/train/stage.json", lambda launch: launch["stage"]["spec"].update(beta=0.5)),
        "iter1/train",
        "a fingerprint that does not follow from its spec",
    ),
    "recipe": (
        lambda run: rewritten(run / "recipe.json", lambda recipe: recipe["iterations"][1].update(beta=0.5)),
        "iter1/train",
        r"is not what recipe\.json plans: spec\.beta",
    ),
    "content": (
        lambda run: rewritten(run / "iter1/train/done.json", lambda record: record.update(content="0" * 64)),
        "iter1/train",
        "a content that does not follow from its outputs",
    ),
    "renamed output": (
        lambda run: rewritten(
            run / EVALUATION / "done.json", lambda record: record["outputs"].update(other=record["outputs"].pop("scores/kl.json"))
        ),
        EVALUATION,
        "a content that does not follow from its outputs",
    ),
    "missing score": (lambda run: (run / EVALUATION / "scores/kl.json").unlink(), f"{EVALUATION}/scores/kl.json", "recorded and not here"),
    "score left out": (
        lambda run: rewritten(run / EVALUATION / "done.json", lambda record: record.update(outputs={}, content=content_of({}))),
        EVALUATION,
        "lists no score of kl",
    ),
    "missing stage": (lambda run: shutil.rmtree(run / EVALUATION), EVALUATION, r"planned by recipe\.json and has no stage\.json"),
    "missing stage.json": (lambda run: (run / EVALUATION / "stage.json").unlink(), EVALUATION, r"holds a done\.json and no stage\.json"),
    "stray file": (lambda run: (run / "prompts/more.jsonl").write_text(""), "prompts/more.jsonl", r"is not in prompts/done\.json"),
    "seconds NaN": (
        lambda run: rewritten(run / "prompts/done.json", lambda record: record.update(seconds=float("nan"))),
        "prompts",
        "not a readable record",
    ),
    "seconds text": (
        lambda run: rewritten(run / "prompts/done.json", lambda record: record.update(seconds="1.5")),
        "prompts",
        "not a readable record",
    ),
    "output outside": (
        lambda run: rewritten(run / "prompts/done.json", lambda record: record["outputs"].update({"../../x": NO_OUTPUT})),
        "prompts",
        "not a readable record",
    ),
    "endless output": (
        lambda run: rewritten(run / "prompts/done.json", lambda record: record["outputs"].update({"/dev/zero": NO_OUTPUT})),
        "prompts",
        "not a readable record",
    ),
    "endless link": (lambda run: exchanged(run / "prompts/prompts.jsonl"), "prompts/prompts.jsonl", "is no plain file"),
    "moved stage": (lambda run: (run / "prompts").rename(run / "prompts2"), "prompts2", r"its stage\.json is that of prompts"),
}
NO_OUTPUT = {"size": 0, "sha256": "0" * 64}


def exchanged(path: Path) -> None:
    """A link to a device that never ends in the place of `path`."""
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", DAMAGES)
def test_verify_computes_again_what_it_can(finished: RunDir, name: str) -> None:
    """Whatever follows from something else is computed again, and what contradicts it, or is gone, or is more than recorded, is told."""
    do, path, reason = DAMAGES[name]
    do(finished.path)
    told = [item.reason for item in verify(finished).damage if item.path == path]
    assert any(re.search(reason, one) for one in told), verify(finished).damage


# Provenance


def test_committed_files_name_no_place(finished: RunDir) -> None:
    """What is committed of a run holds no absolute path and no host name of the machine that made it."""
    private = [str(finished.path.parent.parent.parent), str(Path.cwd()), str(Path.home()) + "/", socket.gethostname()]
    texts = {path: path.read_text() for path in finished.path.rglob("*.json")}
    assert len(texts) > 2 * len(PATHS)
    assert [(path.name, word) for path, text in texts.items() for word in private if word in text] == []


def test_ignored_are_exactly_the_stages(finished: RunDir) -> None:
    """The run's own .gitignore keeps the stages' directories, links and the lock out of a commit; recipe, archive and tables go in."""
    ignored = {*(finished.path / ".gitignore").read_text().split()}
    assert {f"/{path.split('/')[0]}/" for path in finished.stages()} == {name for name in ignored if name[-1] == "/"} - {"/local/", "jobs/"}
    assert {"/local/", ".lock", "*.tmp"} <= ignored


def test_run_directory_holds_its_recipe(finished: RunDir, tmp_path: Path) -> None:
    """recipe.json reads back equal; a directory without one and a damaged one say so."""
    assert read_recipe(finished.path) == RECIPE
    assert read_model(Recipe, finished.path / "recipe.json") == RECIPE
    with pytest.raises(InputError, match=r"holds no recipe\.json; expected the directory of a run"):
        read_recipe(tmp_path)
    (finished.path / "recipe.json").write_text("{")
    with pytest.raises(InputError, match=r"recipe\.json is not a readable recipe"):
        read_recipe(finished.path)


def test_waiting_threads_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage starts with the machine's threads and with those that wait asleep; a machine may say otherwise. Both are recorded."""
    tell = "import json, os, sys; open(sys.argv[1] + '/environ.json', 'w').write(json.dumps(dict(os.environ)))\n"
    monkeypatch.setattr(fake_stages, "STAGE", tell + fake_stages.STAGE)
    asleep = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "OMP_NUM_THREADS": "2"}
    for env, expected in (({}, asleep), ({"OMP_WAIT_POLICY": "ACTIVE"}, {**asleep, "OMP_WAIT_POLICY": "ACTIVE"})):
        run = RunDir(tmp_path / str(len(env)))
        runner.reproduce(RECIPE, run, CPU.model_copy(update={"env": env}), "sft/model", lambda _: None)
        found = json.loads((run.stage_dir("sft/model") / "environ.json").read_text())
        assert {name: found[name] for name in asleep} == expected
        launch = run.launch("sft/model")
        assert launch is not None
        assert launch.launches[-1]["threads"] == expected
