"""Two CPU cores where responses come from vLLM in an environment of its own (docs/vllm.md makes .nox/vllm)."""

from harness.machine import load

changes = {
    "name": "cpu-vllm",
    "summary": "two CPU cores, fp32, vLLM in .nox/vllm",
    "python": {"generate": ".nox/vllm/bin/python", "evaluate": ".nox/vllm/bin/python"},
    # compiling costs minutes at each start; eager starts in seconds
    "vllm": {"enforce_eager": True, "max_model_len": 4096},
    "generate_tokens_per_second": 15.0,
}
machine = load("cpu").model_copy(update=changes)
