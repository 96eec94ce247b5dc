"""bench/gpu.py runs here, small and on a CPU, through the code it measures with on a GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from bench import gpu
from bench.gpu_expected import EXPECTED, is_expected, line
from bench.gpu_workload import Scale
from tests import ROOT

TINY = Scale(tiny=True)
NOISE = (
    "log-probability, packed less padded",
    "gradient, packed less padded",
    "margin, 16 groups together less each alone: sd",
    "the same: mean",
    "first loss",
    "steps after loading",
)
"""Figures that depend neither on the card nor on its speed."""


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """accelerate's process-wide state would leak from one check to the next."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("check", gpu.CHECKS)
def test_every_check_runs_and_measures_what_is_expected_of_it(check: str) -> None:
    """Promise: each figure has its expected range and is measured; what no card changes is in its range here too."""
    if check in ("adapters", "fsdp2", "state"):
        pytest.importorskip("peft", reason="peft is not installed")
    found = gpu.CHECKS[check](TINY)
    assert found.keys() == EXPECTED[check].keys()
    assert all(math.isfinite(value) for value in found.values())
    assert all(is_expected(check, figure, value) for figure, value in found.items() if figure in NOISE)
    assert all(value > 0 for figure, value in found.items() if figure not in NOISE)


def test_no_token_starts_as_zeros() -> None:
    """Promise: no embedding is zero, as a padding token's is: first in a row it would stay zero through all layers, each norm multiply
    its gradient by 1000, and 14 layers from the end it would be infinite."""
    weights = gpu.build(TINY, torch.float32).get_input_embeddings().weight
    assert bool((weights != 0).any(dim=1).all())


def test_what_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Promise: figures, those out of range, and why a check failed go into one file with card, versions and commit; the exit code tells."""
    figures = {"parity": dict.fromkeys(EXPECTED["parity"], 1e-9), "state": dict.fromkeys(EXPECTED["state"], 2.0)}

    def in_a_child(check: str, scale: Scale, seconds: float) -> gpu.Figures:
        if check == "state":
            assert json.loads(out.read_text())["figures"].keys() == {"parity"}, "what is done is written before the next begins"
        if check == "noise":
            raise RuntimeError("CUDA error: out of memory")
        return figures[check]

    monkeypatch.setattr(gpu, "in_a_child", in_a_child)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--out", str(out), "--only", "parity", "noise", "state"]) == 1
    found = json.loads(out.read_text())
    assert found["figures"] == figures
    assert found["failures"] == {"noise": "CUDA error: out of memory"}
    assert found["out_of_range"] == []
    assert {"card", "packages", "commit", "minutes"} <= found.keys()
    assert "noise: failed: CUDA error: out of memory" in capsys.readouterr().out
    assert line("fsdp2", "share", 0.1).endswith("NOT as expected")


def test_a_rank_s_error_is_told_and_not_its_launcher_s() -> None:
    """Promise: behind the launcher the reason is the rank's own last line, not that a rank failed."""
    said = """Traceback (most recent call last):
[rank0]:   File "bench/gpu.py", line 3, in <module>
[rank0]: harness.errors.TrainingError: the gradient norm is nan at step 0
E1126 15:45:47.855000 3458 torch/distributed/elastic/multiprocessing/api.py:986] failed (exitcode: 1) local_rank: 0
"""
    assert gpu.last_error(said) == "[rank0]: harness.errors.TrainingError: the gradient norm is nan at step 0"
    assert gpu.last_error("killed\n") == "killed"
    assert gpu.last_error("") == ""


def test_the_page_says_what_is_expected_and_what_ran() -> None:
    """Promise: docs/benchmarks.md has a row a figure with its expected range, what bench/gpu.json measured, or that the check failed."""
    page, ran = (ROOT / "docs/benchmarks.md").read_text(), ROOT / "bench/gpu.json"
    found = json.loads(ran.read_text()) if ran.exists() else {"figures": {}, "failures": {}}
    for check, expected in EXPECTED.items():
        for figure, one in expected.items():
            value = found["figures"].get(check, {}).get(figure)
            absent = "failed" if check in found["failures"] else "not run"
            assert f"| {check} | {figure} | {one} {one.unit} | {absent if value is None else f'{value:.4g}'} |" in page
