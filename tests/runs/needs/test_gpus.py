"""The GPUs are those that CUDA would show this process: asked of the driver, of torch where the driver's program is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import recipe as recipes
from harness.runs.needs import gpus
from harness.runs.needs.gpus import Gpu, asked_of_torch, look
from harness.runs.needs.hardware import Hardware, machine_for
from tests import ROOT
from tests.hardware_tables import CARDS, NUMBERS, computer

DRIVER = "570.86.15"
FOUR = [f"{i}, GPU-{i}a2b, NVIDIA A100-SXM4-80GB, 81920, 8.0, Disabled, {DRIVER}" for i in range(4)]
WHOLE = Gpu("NVIDIA A100-SXM4-80GB", 81920 * 2**20 / 1e9, 8.0, driver=DRIVER)
DIVIDED = [FOUR[0], FOUR[1].replace("Disabled", "Enabled")]
SLICES = [
    "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-0a2b)",
    "GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-1a2b)",
    "  MIG 3g.40gb     Device  0: (UUID: MIG-aaaa-1111)",
    "  MIG 1g.10gb+me  Device  1: (UUID: MIG-bbbb-2222)",
]
FAKE_TORCH = """
from types import SimpleNamespace
class cuda:
    device_count = staticmethod(lambda: {number})
    get_device_properties = staticmethod(lambda i: SimpleNamespace(name="{name}", total_memory={size}, major=8, minor=0))
"""


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, cards: Sequence[str], slices: Sequence[str] = ()) -> None:
    """Put a stand-in for the driver's program first on PATH: it lists `slices` for -L, and else `cards`."""
    program = folder / "nvidia-smi"
    said = ["".join(f"echo '{line}'\n" for line in lines) or ":\n" for lines in (slices, cards)]
    program.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then\n{said[0]}else\n{said[1]}fi\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_asked_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: number, name, memory, compute capability and driver, without importing torch."""
    nvidia_smi(tmp_path, monkeypatch, FOUR)
    assert look() == (WHOLE,) * 4
    code = "import sys, harness.cli.main; from harness.runs.needs.hardware import look; look(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "False\n"


@pytest.mark.parametrize(("visible", "number"), [("0,2", 2), ("", 0), ("GPU-3a2b", 1), ("7", 0), ("-1", 0)])
def test_only_visible_gpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, number: int) -> None:
    """Promise: CUDA_VISIBLE_DEVICES names them by index or uuid, and may hide all."""
    nvidia_smi(tmp_path, monkeypatch, FOUR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(look()) == number


@pytest.mark.parametrize(
    ("visible", "name", "gigabytes", "share"),
    [
        (None, "NVIDIA A100-SXM4-80GB MIG 3g.40gb", 40.0, 3 / 7),
        ("MIG-bbbb-2222", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", 10.0, 1 / 7),
        ("MIG-bbbb-2222,MIG-aaaa-1111", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", 10.0, 1 / 7),
        ("0", WHOLE.name, WHOLE.memory_gb, 1.0),
    ],
)
def test_a_slice_is_a_gpu_of_its_own_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, name: str, gigabytes: float, share: float
) -> None:
    """Promise: of a divided card a process has one slice, the first it may see, with the slice's memory and not the card's."""
    nvidia_smi(tmp_path, monkeypatch, DIVIDED, SLICES)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert look() == (Gpu(name, gigabytes, 8.0, share, DRIVER),)
    if share < 1:
        machine = machine_for(recipes.load("qwen3-0-6b"), Hardware(look(), 16, 256.0))
        assert (machine.num_devices, machine.memory_gb, machine.peak_tflops) == (1, gigabytes, pytest.approx(312.0 * share))


def test_a_driver_that_fails_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: nvidia-smi on a node without a card exits with an error, and nothing is found."""
    nvidia_smi(tmp_path, monkeypatch, ())
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert look() == ()


@pytest.mark.parametrize("number", NUMBERS)
def test_torch_is_asked_where_the_driver_s_program_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Promise: with torch's CUDA queries answered by a fake of so many cards, each recipe gets what the table in docs/hardware.md says."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for gigabytes in CARDS if number else CARDS[:1]:
        expected = computer(number, gigabytes)
        name = expected.gpus[0].name if number else ""
        (tmp_path / "torch.py").write_text(FAKE_TORCH.format(number=number, name=name, size=gigabytes * 2**30))
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        assert asked_of_torch() == expected.gpus


def test_the_probe_works_on_torch_itself() -> None:
    """Promise: here torch finds as many cards as the driver shows."""
    done = subprocess.run([sys.executable, "-c", gpus.PROBE], capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)) == len(look())
