"""The policy as training needs it: fp32 weights, adapters where the recipe has them, optimizer, schedule, and accelerate's engine."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.contracts.stage_specs import TrainSpec
from harness.errors import MachineError, RecipeError
from harness.machine import Machine
from harness.recipe import Lora
from harness.training.batches import Schedule

ALONE = timedelta(hours=2)
"""What one process may take alone while the others wait: the audit of all pairs, gathering and writing a checkpoint."""
SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup", "cosine": "cosine"}


def load_policy(checkpoint: Path, settings: TrainSpec, machine: Machine) -> nn.Module:
    """fp32 weights in evaluation mode, which is what turns dropout off; only gradient checkpointing is told that we train.

    Raises `RecipeError` where pairs may be longer than the model's context.
    """
    _check_context(checkpoint, settings)
    return as_policy(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True), settings, machine)


def as_policy(model: Any, settings: TrainSpec, machine: Machine) -> nn.Module:
    """`model`, a causal language model of transformers in fp32, with what training adds to it."""
    if settings.lora:
        _add_adapters(model, settings.lora, settings.seed)
    model.eval()
    if machine.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True
    return model  # type: ignore[no-any-return]


def _check_context(checkpoint: Path, settings: TrainSpec) -> None:
    context = getattr(AutoConfig.from_pretrained(checkpoint, local_files_only=True), "max_position_embeddings", None)
    if context is not None and settings.max_length > context:
        raise RecipeError(f"max_length {settings.max_length} is beyond the model's context of {context} tokens; lower max_length")


def _add_adapters(model: nn.Module, lora: Lora, seed: int) -> None:
    """Adapters in place of the linear layers `lora.targets`, the only weights that are trained. At first they add nothing."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MachineError("the recipe trains adapters, which needs peft; run: pip install 'harness-spin[lora]'") from None
    torch.manual_seed(seed)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0, bias="none")
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise RecipeError(f"lora.targets {list(lora.targets)}: {str(error).splitlines()[0]}") from None


def merged(weights: Mapping[str, Tensor], lora: Lora | None) -> dict[str, Tensor]:
    """The weights of an ordinary checkpoint: base + alpha / rank * B A where there are adapters, under the base's names."""
    plain: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        layer, is_adapted, rest = name.partition(".base_layer.")
        if is_adapted and lora and rest == "weight":
            low, high = (weights[f"{layer}.lora_{side}.default.weight"] for side in "AB")
            weight = weight + lora.alpha / lora.rank * (high @ low)
        plain[f"{layer}.{rest}" if is_adapted else name] = weight
    return plain


def make_optimizer(settings: TrainSpec, model: nn.Module) -> torch.optim.Optimizer:
    """torch's own defaults beyond learning rate and weight decay (RMSProp: alpha 0.99, no momentum, not centred)."""
    kinds: dict[str, Any] = {"rmsprop": torch.optim.RMSprop, "adamw": torch.optim.AdamW}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    chosen: torch.optim.Optimizer = kinds[settings.optimizer.name](
        trained, lr=settings.learning_rate, weight_decay=settings.optimizer.weight_decay
    )
    return chosen


def make_scheduler(settings: TrainSpec, schedule: Schedule, optimizer: torch.optim.Optimizer) -> Any:
    """The learning rate over the scheduled steps, not those run."""
    return get_scheduler(
        SCHEDULES[settings.optimizer.schedule],
        optimizer,
        num_warmup_steps=math.ceil(settings.optimizer.warmup_ratio * schedule.scheduled_steps),
        num_training_steps=schedule.scheduled_steps,
    )


def open_accelerator(settings: TrainSpec, machine: Machine, out: Path) -> Accelerator:
    """The world that the machine's launcher started, sharded as the machine says.

    Under FSDP2 gradients are reduced after every micro-batch: what waits for the last one would be a whole gradient on each device.
    """
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # it says at every save that tied weights are saved once
    is_sharded = machine.sharding != "none"
    _forget_settings_of_others(machine)
    accelerator = Accelerator(
        cpu=machine.device == "cpu",
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        fsdp_plugin=_sharding(settings, machine) if is_sharded else None,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_each_batch=is_sharded),
        kwargs_handlers=[_process_group(machine)],
        step_scheduler_with_optimizer=False,
        log_with=list(machine.trackers) or None,
        project_dir=out,
    )
    if is_sharded and accelerator.distributed_type != DistributedType.FSDP:
        raise MachineError(
            f"machine {machine.name!r} shards the weights ({machine.sharding}), but this is one process or runs on the CPU; "
            "give it a launcher that starts a process a GPU (machines/a100x8.py), or set sharding='none'"
        )
    if machine.trackers:
        accelerator.init_trackers("harness", config={"beta": settings.beta, "learning_rate": settings.learning_rate, "seed": settings.seed})
    return accelerator


def _forget_settings_of_others(machine: Machine) -> None:
    """accelerate reads variables that its own launcher sets from a user's default configuration; only the machine file counts here."""
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        value = os.environ.pop(name)
        if machine.sharding == "none" and name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED") and value.lower() == "true":
            raise MachineError(
                f"{name} is set, but machine {machine.name!r} shards nothing; say sharding='fsdp2' in its file (DeepSpeed is not "
                "supported) or unset the variable"
            )


def _sharding(settings: TrainSpec, machine: Machine) -> FullyShardedDataParallelPlugin:
    """FSDP2 over the decoder layers. The log-probabilities stay fp32: in bf16 those beyond 256 nats would be multiples of 2.

    The first process alone reads the weights; the others get their shares from it.
    """
    lower = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None)
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        mixed_precision_policy=lower if settings.precision == "bf16" else None,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        cpu_offload=machine.sharding == "fsdp2_offload",
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=True,
        activation_checkpointing=False,  # load_policy does it
        activation_checkpointing_offload=False,
    )


def _process_group(machine: Machine) -> InitProcessGroupKwargs:
    """Patient enough for the slowest thing that one process does alone; with offloaded weights, collectives on the CPU as well."""
    backend = {"backend": "cuda:nccl,cpu:gloo"} if machine.sharding == "fsdp2_offload" and machine.device == "cuda" else {}
    return InitProcessGroupKwargs(timeout=ALONE, **backend)
