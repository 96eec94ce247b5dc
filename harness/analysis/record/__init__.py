"""The published record, figure by figure, as it was read; harness/analysis/published.py looks things up in it."""
