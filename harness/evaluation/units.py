"""The unit of a metric, by its name: shares are given in percent, anything else in its own unit."""

from __future__ import annotations

OWN_UNIT = ("perplexity", "bits_per_byte", "bleu", "chrf", "ter", "likelihood", "brier", "points", "mae", "mse")
"""Words in the names of metrics that are no shares; all others are given in percent."""


def scale_of(metric: str) -> float:
    """What a metric's value is multiplied by: 100 for shares."""
    return 1.0 if any(word in metric for word in OWN_UNIT) else 100.0
