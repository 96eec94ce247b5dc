"""Eight A100-80G on one node, DeepSpeed ZeRO-3 in place of FSDP2: the paper's engine. Written for it; not run by us.

Weights stay fp32 in every shard and bf16 is autocast, as under FSDP2, so a checkpoint loses nothing when it is gathered. Batch sizes
and clipping come from the recipe (harness/training/policy.py). A state can be continued only on as many processes as saved it.
"""

from harness.machine import load

changes = {
    "name": "a100x8-zero3",
    "summary": "8 x A100-80G, one node, bf16, DeepSpeed ZeRO-3 (not run by us)",
    "launcher": (
        "{python}",
        "-m",
        "accelerate.commands.launch",
        "--num_processes={num_devices}",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--use_deepspeed",
        "--zero_stage=3",
        "--zero3_init_flag=false",
        "--zero3_save_16bit_model=true",
        "--no_python",
        "{python}",
    ),
}
machine = load("a100x8").model_copy(update=changes)
