"""Tests mirror the package: what is promised by harness/X/Y.py is in tests/X/test_Y.py."""

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = ROOT / "tests/smoke/small.py"
"""A recipe that runs in seconds."""
Told = Callable[[str], None]
"""Says a figure on the terminal."""
