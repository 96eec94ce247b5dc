"""bench/evaluate.py compares what it says it compares."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests import ROOT
from tests.tiny_checkpoints import byte_checkpoint


def _bench() -> ModuleType:
    path = ROOT / "bench" / "evaluate.py"
    spec = importlib.util.spec_from_file_location("bench_evaluate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("hf_cache")
def test_both_backends_agree_and_a_wrong_answer_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored and generated tasks: answers and metrics are equal for a random model; one falsified log-probability is reported."""
    bench, checkpoint = _bench(), byte_checkpoint(tmp_path)
    options = argparse.Namespace(
        threads=None, max_new_tokens=6, precision="fp32", device="cpu", our_batch=2, batches=[1, 2], pilot=1,
        engine="hf", engine_batch=2,
    )  # fmt: skip
    falsify = False

    def in_this_process(backend: str, task: object, options: argparse.Namespace) -> object:
        found = bench.answer(backend, checkpoint, task, options)
        if falsify and backend == "ours":
            (logp, greedy), *rest = found["answers"][0][0]
            found["answers"][0][0] = [(logp + 1.0, greedy), *rest]
        return found

    monkeypatch.setattr(bench, "in_a_child", in_this_process)
    for name in ("truthfulqa_mc2", "bbh_sports_understanding"):
        line = bench.compare(bench.TASKS[name].model_copy(update={"limit": 2}), options)
        assert (line["questions"], line["metrics_equal"], line["answers_equal"]) == (2, True, line["answers"])
        assert (line["engine_answers_equal"], line["engine_metrics_equal"]) == (2, True)
        assert line["logp_difference"] is None or line["logp_difference"] < bench.TOLERANCE
    falsify = True
    line = bench.compare(bench.TASKS["truthfulqa_mc2"].model_copy(update={"limit": 2}), options)
    assert line["logp_difference"] == pytest.approx(1.0, abs=0.01)
