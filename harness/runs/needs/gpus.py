"""The GPUs that this process may use, asked of nvidia-smi, or of torch in a process of its own where the driver's program is missing.

CUDA_VISIBLE_DEVICES counts. A card that is divided (MIG) is its slices, of which CUDA shows a process one: the first that is visible, with
the memory its profile names. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GB = 1e9
FIELDS = ("index", "uuid", "name", "memory.total", "compute_cap", "mig.mode.current", "driver_version")
CARD, SLICE = re.compile(r"GPU (\d+):"), re.compile(r"MIG (\d+)g\.(\d+)gb\S*\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")
SLICES = 7
"""Compute slices of a card."""
PROBE = (
    "import json, torch; cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count())); "
    "print(json.dumps([(c.name, c.total_memory / 1e9, float(f'{c.major}.{c.minor}')) for c in cards]))"
)


class Gpu(NamedTuple):
    """A card, or a slice of one: its name, GB of memory, compute capability, its share of the card's cores, the driver's version."""

    name: str
    memory_gb: float
    capability: float
    share: float = 1.0
    driver: str = ""


class Device(NamedTuple):
    """What CUDA_VISIBLE_DEVICES can name: by number (a card) or the beginning of `uuid`."""

    number: str | None
    uuid: str
    gpu: Gpu


def look() -> tuple[Gpu, ...]:
    """The GPUs in CUDA's order."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return asked_of_torch() if any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/kfd")) else ()
    found = _said(program, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
    rows = [[value.strip() for value in line.split(",")] for line in found if line.count(",") == len(FIELDS) - 1]
    slices = _slices(_said(program, "-L")) if any(row[5] == "Enabled" for row in rows) else {}
    visible = _visible([device for row in rows for device in _devices(row, slices)])
    divided = [device for device in visible if device.uuid.startswith("MIG-")]
    return tuple(device.gpu for device in divided[:1] or visible)


def asked_of_torch() -> tuple[Gpu, ...]:
    """The same from torch, which leaves out the driver's version."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    return tuple(Gpu(*card) for card in json.loads(done.stdout)) if done.returncode == 0 else ()


def _said(program: str, *arguments: str) -> list[str]:
    """The lines of the driver's program; none where it fails, as on a node without a card."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _devices(row: list[str], slices: dict[str, list[tuple[str, int, int]]]) -> Iterator[Device]:
    """A card, or its slices where it is divided."""
    number, uuid, name, mib, capability, divided, driver = row
    if divided != "Enabled":
        yield Device(number, uuid, Gpu(name, float(mib) * 2**20 / GB, float(capability), driver=driver))
    for uuid, cores, gigabytes in slices.get(number, []) if divided == "Enabled" else ():
        yield Device(None, uuid, Gpu(f"{name} MIG {cores}g.{gigabytes}gb", float(gigabytes), float(capability), cores / SLICES, driver))


def _slices(lines: list[str]) -> dict[str, list[tuple[str, int, int]]]:
    """{card's number: (uuid, compute slices, gigabytes) of each of its slices}, from `nvidia-smi -L`."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    for line in lines:
        card, part = CARD.match(line), SLICE.search(line)
        if card:
            found[card[1]] = []
        elif part and found:
            found[next(reversed(found))].append((part[3], int(part[1]), int(part[2])))
    return found


def _visible(devices: list[Device]) -> list[Device]:
    """Those CUDA_VISIBLE_DEVICES names, by number or by the beginning of their uuid; all where it is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return devices
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return [one for name in names for one in devices if one.number == name or (name[:4] in ("GPU-", "MIG-") and one.uuid.startswith(name))]
