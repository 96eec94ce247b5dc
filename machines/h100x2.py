"""Two H100-80G on one node. Written for it; not run by us."""

from harness.machine import load

changes = {"name": "h100x2", "summary": "2 x H100-80G, one node, bf16, FSDP2 (not run by us)", "num_devices": 2}
machine = load("h100x8").model_copy(update=changes)
