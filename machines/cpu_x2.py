"""Two CPU cores as two replicas of one thread each: what several GPUs do, small enough to try at home."""

from harness.machine import load

changes = {
    "name": "cpu-x2",
    "summary": "two CPU cores, two engines of one thread each",
    "num_threads": 1,
    "num_replicas": 2,
    # vLLM binds threads to cores; two engines must not share one
    "replica_env": ({"VLLM_CPU_OMP_THREADS_BIND": "0"}, {"VLLM_CPU_OMP_THREADS_BIND": "1"}),
    "vllm": {"enforce_eager": True, "max_model_len": 4096},
    "mfu": 0.4,
}
machine = load("cpu").model_copy(update=changes)
