"""Two CPU cores as two replicas of one thread each: what several GPUs do, small enough to try at home."""

from harness.machine import Machine

machine = Machine(
    name="cpu-x2",
    summary="two CPU cores, two engines of one thread each",
    device="cpu",
    num_threads=1,
    micro_batch=8,
    opponent_batch=8,
    generate_batch=32,
    generate_shard=32,
    evaluate_batch=4,
    checkpoint_every_seconds=20.0,
    num_replicas=2,
    # vLLM binds threads to cores; two engines must not share one
    replica_env=({"VLLM_CPU_OMP_THREADS_BIND": "0"}, {"VLLM_CPU_OMP_THREADS_BIND": "1"}),
    vllm={"enforce_eager": True, "max_model_len": 4096},
    peak_tflops=0.067,
    mfu=0.4,
    generate_tokens_per_second=11.0,
    memory_gb=16.0,
)
