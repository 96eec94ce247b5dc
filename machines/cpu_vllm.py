"""Two CPU cores where responses come from vLLM in an environment of its own (docs/vllm.md makes .nox/vllm)."""

from harness.machine import Machine

machine = Machine(
    name="cpu-vllm",
    summary="two CPU cores, fp32, vLLM in .nox/vllm",
    device="cpu",
    num_threads=2,
    micro_batch=8,
    opponent_batch=8,
    generate_batch=32,
    generate_shard=32,
    evaluate_batch=4,
    checkpoint_every_seconds=20.0,
    python={"generate": ".nox/vllm/bin/python", "evaluate": ".nox/vllm/bin/python"},
    # compiling costs minutes at each start; eager starts in seconds
    vllm={"enforce_eager": True, "max_model_len": 4096},
    peak_tflops=0.067,
    mfu=0.75,
    generate_tokens_per_second=15.0,
    memory_gb=16.0,
)
