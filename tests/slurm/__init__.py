"""Tests against a real Slurm; `nox -s slurm` runs them."""
