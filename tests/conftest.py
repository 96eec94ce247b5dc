"""Shared fixtures: where the evaluation sets lie offline, and models small enough for a unit test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests import ROOT, Told

SHARED = ROOT.parent / "shared"
OFFLINE_CACHE = SHARED / "hf_home"

if OFFLINE_CACHE.is_dir():  # read by huggingface_hub and datasets when they are imported
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_CACHE"] = str(OFFLINE_CACHE / "hub")
    os.environ.setdefault("HF_DATASETS_CACHE", str(Path(tempfile.gettempdir()) / f"harness-datasets-{os.getuid()}"))
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a job that a shell put in the background; what tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # the same under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def hf_cache() -> Path:
    """The offline Hugging Face cache, its `datasets/` copied to a writable place."""
    if not OFFLINE_CACHE.is_dir():
        pytest.skip("the offline evaluation sets are not beside this checkout")
    target = Path(os.environ["HF_DATASETS_CACHE"])
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            whole = shutil.copytree(OFFLINE_CACHE / "datasets", Path(folder) / "datasets")
            with suppress(OSError):  # another process was first
                whole.rename(target)
    return target


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Instructions and judgments kept outside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the development data is not beside this checkout")
    return SHARED / "data"


@pytest.fixture
def told(pytestconfig: pytest.Config) -> Told:
    """Figures that reach the terminal whatever the test captures."""
    captures = pytestconfig.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        with captures.global_and_fixture_disabled():
            print(f"\n{line}", flush=True)

    return tell
