"""Imports go down only, and the parts stay small."""

import ast
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "harness"
LAYERS = [
    {"__main__"},
    {"cli"},
    {"cli_pairs", "cli_report"},
    {"bundle", "cli_checks", "sweeping"},
    {"index", "tables"},
    {"push", "variants"},
    {"head_to_head", "model_card", "report", "seeds"},
    {"cells", "latex", "plots", "rendering"},
    {"blocks", "console", "findings", "train"},
    {"terminal", "train_state", "wording"},
    {"anchors", "audit", "benchmarks", "differences", "evidence", "exchange", "explain", "generate", "listing", "policy", "preferences"},
    {
        "batches", "doctor", "engines", "estimate", "judges", "lm_tasks", "pair_files", "prompt_index", "prompts", "questions",
        "responses", "runner", "scores", "watch",
    },
    {
        "comparability", "data", "evaluate", "global_batch", "judgments", "known_judges", "lm_model", "model", "objectives",
        "plan", "procedural_tasks", "sources", "stopping", "verdicts",
    },
    {"answers", "components", "opponent", "recorded", "sharing"},
    {"artifact", "memory", "replicas"},
    {"contests", "deviation", "lm_definitions", "machine", "specs", "sweep"},
    {"recipe", "schema"},
    {"decoding", "flops", "gains", "python_file", "references", "results"},
    {"lock", "logps", "pages", "paper", "prefix_forward", "statistics", "strict"},
    {
        "errors", "grid", "paper_claims", "prefixes", "progress", "prompt_lookup", "provenance", "resampling", "seeded_noise",
        "shared_attention", "stage_process", "trunk_attention", "untrusted", "vllm_traps",
    },
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of the package a module imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("harness.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    """A module imports only from rows below its own; components reach each other through components.load."""
    if part(path) == "__init__":
        return
    wrong = {name for name in imported(path) if LEVEL[name] <= LEVEL[part(path)]}
    assert wrong == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    """No module over 300 lines, no function over 60."""
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
