"""Eight H100-80G on one node. Written for it; not run by us."""

from harness.machine import load

changes = {
    "name": "h100x8",
    "summary": "8 x H100-80G, one node, bf16, FSDP2 (not run by us)",
    "peak_tflops": 989.0,
    "generate_tokens_per_second": 4000.0,
}
machine = load("a100x8").model_copy(update=changes)
