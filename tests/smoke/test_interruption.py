"""The pipeline survives being killed."""

from pathlib import Path

import pytest

from tests import SMALL
from tests.smoke.interruption import check


@pytest.mark.smoke
def test_killed_run_ends_in_the_tables_of_an_undisturbed_one(tmp_path: Path) -> None:
    """SIGKILL of the process tree at four moments, then the same command: the same tables byte for byte, no finished stage run twice."""
    lines = check(str(SMALL), 4, tmp_path)
    assert len(lines) == 5
