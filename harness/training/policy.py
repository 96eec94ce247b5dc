"""The policy as training needs it: fp32 weights, adapters where the recipe has them, optimizer, schedule, and the launcher's engine."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, get_scheduler
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.contracts import TrainSpec
from harness.errors import MachineError, RecipeError
from harness.machine import Machine
from harness.recipe import Lora
from harness.training.batches import Schedule

SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup", "cosine": "cosine"}


def load_policy(checkpoint: Path, settings: TrainSpec, machine: Machine) -> nn.Module:
    """fp32 weights in evaluation mode, which is what turns dropout off; only gradient checkpointing is told that we train."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    if settings.lora:
        _add_adapters(model, settings.lora, settings.seed)
    model.eval()
    if machine.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True
    return model  # type: ignore[no-any-return]


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
    """The launcher's world. Under DeepSpeed the scorer computes in bf16 itself, around fp32 weights, as every other engine does."""
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # it says at every save that tied weights are saved once
    accelerator = Accelerator(
        cpu=machine.device == "cpu",
        mixed_precision="bf16" if settings.precision == "bf16" and not is_deepspeed_launch() else "no",
        step_scheduler_with_optimizer=False,
        log_with=list(machine.trackers) or None,
        project_dir=out,
    )
    if machine.trackers:
        accelerator.init_trackers("harness", config={"beta": settings.beta, "learning_rate": settings.learning_rate, "seed": settings.seed})
    return accelerator


def is_deepspeed_launch() -> bool:
    """Whether `accelerate launch --use_deepspeed` started this process, by the variable it sets."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"


def tell_engine(accelerator: Accelerator, settings: TrainSpec, schedule: Schedule) -> None:
    """Micro-batches of a step, and to DeepSpeed, which divides, clips and steps by itself, the rest of what the recipe says."""
    num_micro_batches = schedule.batch // accelerator.num_processes // schedule.micro_batch
    accelerator.gradient_accumulation_steps = num_micro_batches
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = schedule.micro_batch
        config["gradient_accumulation_steps"] = num_micro_batches
        config["gradient_clipping"] = settings.optimizer.max_grad_norm or 0.0
        config["zero_allow_untested_optimizer"] = True
