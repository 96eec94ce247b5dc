"""What each stage is told: the part of the recipe that can change its result. Written to `stage.json`, it is the stage's identity."""

from __future__ import annotations

from pydantic import Field

from harness.config import Strict
from harness.recipe import Benchmark, Chat, Lora, ModelRef, Optimizer, PromptSource, Recipe, Sampling


class ModelSpec(Strict):
    """Stage `model`: weights and tokenizer as an ordinary safetensors checkpoint in `checkpoint/`."""

    model: ModelRef


class PromptsSpec(Strict):
    """Stage `prompts`: `prompts.jsonl`, one `Demonstration` a line, in training order."""

    prompts: PromptSource


class PreferencesSpec(Strict):
    """Stage `preferences`: `prompts.jsonl` with the chosen responses as real, and `responses/*.jsonl` with the rejected ones."""

    prompts: PromptSource


class GenerateSpec(Strict):
    """Stage `generate`: `responses/*.jsonl`, one response a prompt. Inputs: policy, prompts."""

    engine: str
    sampling: Sampling
    template: str
    chat: Chat = Field(default=Chat(), exclude_if=lambda value: value == Chat())
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
    chat: Chat = Field(default=Chat(), exclude_if=lambda value: value == Chat())
    tokenization: str
    max_length: int
    max_prompt_length: int
    accepted_checks: tuple[str, ...]
    lora: Lora | None
    precision: str
    seed: int


class PairEncoding(Strict):
    """How text becomes token ids where pairs are trained on; lengths in tokens, `max_length` for prompt and response together."""

    template: str
    chat: Chat = Field(default=Chat(), exclude_if=lambda value: value == Chat())
    tokenization: str
    max_length: int
    max_prompt_length: int

    @classmethod
    def of(cls, recipe: Recipe) -> PairEncoding:
        """That of the recipe's training."""
        return cls(
            template=recipe.training_template,
            chat=recipe.chat,
            tokenization=recipe.tokenization,
            max_length=recipe.max_length,
            max_prompt_length=recipe.max_prompt_length,
        )


class EvaluateSpec(Strict):
    """Stage `evaluate`: `scores/TASK.json` and `samples/TASK.jsonl`. Input: policy.

    Benchmark `held_out` has an `encoding`, and the inputs opponent, prompts, generated (by the opponent) and, of a trained row, trained.
    """

    benchmark: Benchmark
    chat: Chat = Field(default=Chat(), exclude_if=lambda value: value == Chat())
    engine: str
    precision: str
    seed: int
    encoding: PairEncoding | None = Field(default=None, exclude_if=lambda value: value is None)


class VerdictsSpec(Strict):
    """Stage `verdicts`: `scores/TASK.json` and `samples/TASK.jsonl` of answers another stage made. Input: answers, an evaluation."""

    benchmark: Benchmark
