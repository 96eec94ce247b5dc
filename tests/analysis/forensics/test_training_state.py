"""A trainer's state over our curve, on synthetic runs whose story is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.forensics.training_state import Comparison, compare, noise, read_state
from harness.artifact import RunDir
from harness.errors import InputError

STEPS, EVERY = 400, 10


def rate(step: int, scheduled: int = STEPS) -> float:
    """Linear warm-up over a tenth, then linear decay to 0."""
    warmup = scheduled // 10
    return 5e-7 * min(step / warmup, (scheduled - step) / (scheduled - warmup))


def curve(seed: int, resumed: tuple[int, int] | None = None, shift: float = 0.0) -> list[float]:
    """A falling loss with the batches' noise; from `resumed[0]` on the batches are those of the seed `resumed[1]`."""
    draws = {one: random.Random(one) for one in (seed, resumed[1] if resumed else seed)}
    values = []
    for step in range(STEPS):
        noises = {one: draw.gauss(0, 0.03) for one, draw in draws.items()}
        chosen = resumed[1] if resumed and step >= resumed[0] else seed
        values.append(0.693 / (1 + step / 50) + shift + noises[chosen])
    return values


def ours(path: Path, losses: list[float]) -> RunDir:
    """A run with a training log, a line a step."""
    folder = path / "run" / "iter0" / "train"
    folder.mkdir(parents=True)
    lines = [{"step": i, "epoch": 0, "loss": loss, "learning_rate": rate(i), "rewards/accuracy": None} for i, loss in enumerate(losses)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunDir(path / "run")


def theirs(path: Path, losses: list[float], scheduled: int = STEPS, float_noise: float = 1e-5) -> Path:
    """A trainer's state: the first step and every tenth, each the mean since the line before; an evaluation in between."""
    draw, history, before = random.Random(0), [], 0
    for step in (1, *range(EVERY, STEPS + 1, EVERY)):
        some = losses[before:step]
        value = sum(some) / len(some) + draw.gauss(0, float_noise)
        history.append({"step": step, "loss": value, "learning_rate": rate(step, scheduled), "rewards/accuracies": 0.5})
        before = step
    history.append({"step": STEPS, "eval_loss": 9.0})
    file = path / "trainer_state.json"
    state: dict[str, Any] = {"log_history": history, "max_steps": scheduled, "num_train_epochs": scheduled / STEPS, "global_step": STEPS}
    file.write_text(json.dumps(state))
    return file


def parts(found: Comparison) -> dict[str, int | None]:
    return {one.quantity: one.parts_at for one in found.curves}


def test_the_same_run_agrees_throughout(tmp_path: Path) -> None:
    """Equal but for float noise: nowhere. A quantity that one side did not log is not compared."""
    found = compare(ours(tmp_path, curve(1)), "iter0", theirs(tmp_path, curve(1)))
    assert parts(found) == {"loss": None, "learning_rate": None}
    assert "agree in all 41 logged steps" in found.conclusions[1]


@pytest.mark.parametrize("step", [120, 200, 310])
def test_a_run_resumed_with_another_seed_parts_where_it_was_resumed(tmp_path: Path, step: int) -> None:
    """The first logged step after the resumption, or the next where chance made that one small; no difference on average after it."""
    found = compare(ours(tmp_path, curve(1)), "iter0", theirs(tmp_path, curve(1, resumed=(step, 2))))
    loss = next(one for one in found.curves if one.quantity == "loss")
    assert loss.parts_at in (step + EVERY, step + 2 * EVERY)
    assert not loss.is_systematic
    assert parts(found)["learning_rate"] is None
    assert "another order of the same data" in found.conclusions[-1]


def test_another_seed_parts_at_once(tmp_path: Path) -> None:
    """Other batches from the start."""
    at = parts(compare(ours(tmp_path, curve(1)), "iter0", theirs(tmp_path, curve(2))))["loss"]
    assert at is not None
    assert at <= 2 * EVERY


def test_other_settings_differ_on_average(tmp_path: Path) -> None:
    """A loss that stays 0.05 higher is more than other batches."""
    found = compare(ours(tmp_path, curve(1)), "iter0", theirs(tmp_path, curve(2, shift=0.05)))
    loss = next(one for one in found.curves if one.quantity == "loss")
    assert loss.is_systematic
    assert loss.difference == pytest.approx(-0.05, abs=0.01)
    assert "other settings, weights or data" in found.conclusions[-1]


def test_two_of_six_epochs_show_in_the_learning_rate(tmp_path: Path) -> None:
    """Scheduled for three times as long: the rate parts in the warm-up, and the state says so itself."""
    found = compare(ours(tmp_path, curve(1)), "iter0", theirs(tmp_path, curve(1), scheduled=3 * STEPS))
    assert parts(found) == {"loss": None, "learning_rate": 1}
    assert "logged up to step 400 of 1200 scheduled (3 epochs)" in found.conclusions[0]


def test_noise_is_that_of_the_steps_not_of_the_trend() -> None:
    """A straight line has none; Gaussian steps of 0.03 have 0.03."""
    draw = random.Random(3)
    assert noise([0.1 * i for i in range(50)]) == pytest.approx(0, abs=1e-12)
    assert noise([0.1 * i + draw.gauss(0, 0.03) for i in range(2000)]) == pytest.approx(0.03, rel=0.1)
    assert noise([1.0, 2.0]) == 0.0


def damaged(path: Path) -> Path:
    (path / "state.json").write_text('{"log_history": ')
    return path / "state.json"


def another(path: Path) -> Path:
    (path / "state.json").write_text("[1]")
    return path / "state.json"


@pytest.mark.parametrize(
    ("make", "message"),
    [(damaged, "is no trainer state"), (another, "is no trainer state"), (lambda path: path / "none.json", "is not here")],
)
def test_a_state_that_cannot_be_read_is_one_line(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    """Cut, of another kind, or not there."""
    with pytest.raises(InputError, match=message):
        read_state(make(tmp_path))


def test_a_row_without_a_log_is_named(tmp_path: Path) -> None:
    """Nothing was trained here."""
    state = theirs(tmp_path, curve(1))
    with pytest.raises(InputError, match="no log of iter1's training"):
        compare(ours(tmp_path, curve(1)), "iter1", state)
