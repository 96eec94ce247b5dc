"""What a stage that runs beside others sees of the machine."""

from __future__ import annotations

import pytest

from harness.artifact import Stage
from harness.machine import Machine, load
from harness.runs.launches import _share

GENERATE = Stage(path="iter0/generate", kind="generate", spec={}, fingerprint="0")
CARDS = load("a100x4").model_copy(update={"slots": 4, "slots_of": {"generate": 2}})


def seen(machine: Machine, slots: tuple[int, ...]) -> tuple[int, int, str]:
    """(devices, replicas, CUDA_VISIBLE_DEVICES)."""
    part = _share(machine, GENERATE, slots)
    return part.num_devices, part.num_replicas, part.env["CUDA_VISIBLE_DEVICES"]


def test_a_stage_sees_the_devices_of_its_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a slot is a device where there are as many; of those that are visible here."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert seen(CARDS, (1, 3)) == (2, 2, "1,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert seen(CARDS, (1, 3)) == (2, 2, "5,7")


def test_stages_of_a_small_model_share_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: with more slots than devices each slot is a part of one, so that `h100x1-small` runs its stages beside one another."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [seen(load("h100x1-small"), (slot,)) for slot in range(8)] == [(1, 1, "0")] * 8
    two = CARDS.model_copy(update={"num_devices": 2})
    assert [seen(two, (slot,))[2] for slot in range(4)] == ["0", "0", "1", "1"]
    assert seen(two, (1, 2)) == (2, 2, "0,1")
