"""Eight A100-80G on one node, the paper's hardware. Written for it; not run by us."""

from harness.machine import Machine

machine = Machine(
    name="a100x8",
    summary="8 x A100-80G, one node, bf16, FSDP2 (not run by us)",
    device="cuda",
    num_devices=8,
    micro_batch=4,
    opponent_batch=16,
    generate_batch=64,
    generate_shard=2048,
    evaluate_batch=16,
    gradient_checkpointing=True,
    checkpoint_every_seconds=900.0,
    launcher=(
        "{python}",
        "-m",
        "accelerate.commands.launch",
        "--num_processes={num_devices}",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--use_fsdp",
        "--fsdp_version=2",
        "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
        "--fsdp_state_dict_type=FULL_STATE_DICT",
        "--fsdp_cpu_ram_efficient_loading=false",
        "--no_python",
        "{python}",
    ),
    sharding="fsdp2",
    peak_tflops=312.0,
    mfu=0.35,
    generate_tokens_per_second=2200.0,
    memory_gb=80.0,
)
