"""Reproduce Self-Play Fine-Tuning (SPIN, arXiv 2401.01335): generate, train, evaluate, compare with the paper."""

__version__ = "0.1.0"
