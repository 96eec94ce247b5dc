"""What each kind of stage is told: the part of a recipe that can change its result. These fields are its identity."""

from __future__ import annotations

from harness.config import Strict
from harness.recipe import Benchmark, Lora, ModelRef, Optimizer, PromptSource, Sampling


class ModelSpec(Strict):
    """Stage `model`: weights and tokenizer as an ordinary safetensors checkpoint in `checkpoint/`."""

    model: ModelRef


class PromptsSpec(Strict):
    """Stage `prompts`: `prompts.jsonl`, one `Row` a line, in training order."""

    prompts: PromptSource


class PreferencesSpec(Strict):
    """Stage `preferences`: `prompts.jsonl` with the chosen responses as real, and `responses/*.jsonl` with the rejected ones."""

    prompts: PromptSource


class GenerateSpec(Strict):
    """Stage `generate`: `responses/*.jsonl`, one response a prompt. Inputs: policy, prompts."""

    engine: str
    sampling: Sampling
    template: str
    dtype: str
    seed: int


class TrainSpec(Strict):
    """Stage `train`: `checkpoint/` and `log.jsonl`. Inputs: policy, prompts, and responsesI for each iteration I of the pairs.

    An objective with a branch `proto` has iteration 0's responses as the input `proto` as well.
    Training ends after `num_steps` steps where given, else after `stop_after_epochs` of the `schedule_epochs` scheduled.
    """

    objective: str
    parameters: dict[str, float]
    grouping: str
    beta: float
    learning_rate: float
    optimizer: Optimizer
    schedule_epochs: int
    stop_after_epochs: int
    num_steps: int | None
    global_batch_size: int
    template: str
    tokenization: str
    max_length: int
    max_prompt_length: int
    accepted_checks: tuple[str, ...]
    lora: Lora | None
    precision: str
    seed: int


class EvaluateSpec(Strict):
    """Stage `evaluate`: `scores/TASK.json` and `samples/TASK.jsonl`. Input: policy."""

    benchmark: Benchmark
    engine: str
    precision: str
    seed: int
