"""What kills, changed bytes, sick judges, odd files and hostile archives do to a run, done and counted: `nox -s damage`."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from harness import recipe as recipes
from harness.plan import plan
from tests.smoke.interruption import EVENT

RECIPE, MACHINE = (Path(__file__).parent / name for name in ("whole.py", "machine.py"))
STAGES = [stage.path for stage in plan(recipes.load(str(RECIPE)))]
Hurt = Callable[["subprocess.Popen[str]"], None]
"""Waits for a moment and does something to a runner's process, or to what it started."""


def launch(out: Path, hurt: Hurt | None = None) -> list[str]:
    """`harness reproduce`, given to `hurt` once the first stage is announced; returns what was said."""
    command = [sys.executable, "-m", "harness", "reproduce", str(RECIPE), "--out", str(out), "--machine", str(MACHINE)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    assert process.stderr is not None
    said, hurting = list[str](), threading.Thread(target=hurt, args=(process,), daemon=True) if hurt else None
    for line in process.stderr:  # to the end of what a killed runner leaves
        said.append(line.rstrip())
        if hurting and not hurting.ident and EVENT.search(line) and "done earlier" not in line:
            hurting.start()
    code = process.wait()
    if hurting and hurting.ident:
        hurting.join()
    assert hurt or code == 0, "\n".join(said[-20:])
    return said
