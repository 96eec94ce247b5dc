"""Four A100-80G on one node. Written for it; not run by us."""

from harness.machine import load

changes = {"name": "a100x4", "summary": "4 x A100-80G, one node, bf16, FSDP2 (not run by us)", "num_devices": 4}
machine = load("a100x8").model_copy(update=changes)
