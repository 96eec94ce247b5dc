"""Reproduce Self-Play Fine-Tuning (SPIN, arXiv 2401.01335): generate, train, evaluate, compare with the paper.

`harness.load_run("results/tiny")` gives a run's scores, samples, pairs and logs as pandas frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.report.frames import load_run

__all__ = ["load_run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_run`, imported when it is first asked for: the command line needs none of it."""
    if name == "load_run":
        from harness.report import frames

        return frames.load_run
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
