"""Two CPU cores with bf16 instructions (AVX-512 BF16 or AMX), a stage on each: for recipes in bf16.

A matrix product of 2048 x 2048 ran at 453 GFLOPS in bf16 and 103 in fp32 on an EPYC core, at 1,092 and 180 on a Xeon core with AMX.
"""

from harness.machine import load

changes = {
    "name": "cpu-bf16",
    "summary": "two CPU cores with bf16 instructions, two stages side by side, one thread each",
    "evaluate_batch": 8,
    "checkpoint_every_seconds": 120.0,
    "peak_tflops": 0.45,
    "mfu": 0.3,
}
machine = load("cpu-two-stages").model_copy(update=changes)
