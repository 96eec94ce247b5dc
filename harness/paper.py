"""Every constant of SPIN (arXiv 2401.01335), once: what the paper states, what its code does, what others measured.

- `SETTINGS` is what the paper's text says, `RELEASED` what uclaml/SPIN at a12ba80 and its authors do. They disagree
  on purpose: a recipe chooses, and is compared with both. Keys are the dotted names of a recipe's fields.
- `CONTEXT` is what else they state, not compared with recipes. `TIMES` are the paper's own durations.
- `PROTOCOL` is how its tables were made (the tables: harness/analysis/published.py), `MISPRINTS` where the paper contradicts
  itself, `RERUNS` who tried again, `NOT_RECOVERABLE` what nobody can read anywhere.

`beta` throughout is the coefficient of the log-ratio, which the paper calls lambda. Iterations count from 0, and the
opponent of iteration 0 is the SFT model. "V3" is the ICML text, "V2" arXiv v2. "not stated" is a value.
"""

import math
from typing import Any, NamedTuple

NOT_STATED = "not stated"
"""A value: the source was read, and it does not say."""

SOURCES = ("paper", "release", "authors", "leaderboard", "rerun", "ours")
"""Who says it: the text; its code, configs and cards; its authors in an issue or a picture; the live leaderboard; others; we."""

NUM_ITERATIONS = 4


class Fact(NamedTuple):
    """One statement and where it was read. `value` may be NOT_STATED: the place was read and does not say."""

    value: Any
    source: str
    where: str
    note: str = ""


class Protocol(NamedTuple):
    """How one task of the paper is scored. `shots_in_effect` is what the pinned harness really shows the model."""

    metric: str
    shots: int | None
    shots_in_effect: int | None
    source: str
    where: str
    note: str = ""


class Misprint(NamedTuple):
    """A number the paper prints and the one its own tables give, in percent.

    Of a score, or of a gain over the row `against`, `row` and `task` say which; both are None of a number in the text.
    """

    what: str
    printed: float
    recomputed: float
    where: str
    row: str | None = None
    task: str | None = None
    against: str | None = None


class NotRecoverable(NamedTuple):
    """Something a reproduction would need that no source gives."""

    what: str
    reason: str


_REPO = "uclaml/SPIN@a12ba80"
_APPENDIX = "V3 App. B.1, sec. 6.1"
_CONFIGS = f"{_REPO} configs/config_iter*.yaml"
_SCRIPTS = f"{_REPO} scripts/finetune*.sh"
_GENERATE = f"{_REPO} generate.py"
_ISSUES = "uclaml/SPIN issues 12, 36"


def _paper(value: object, note: str = "", where: str = _APPENDIX) -> Fact:
    return Fact(value, "paper", where, note)


def _release(value: object, where: str, note: str = "") -> Fact:
    return Fact(value, "release", where, note)


def _schedule(field: str, facts: tuple[Fact, ...]) -> dict[str, Fact]:
    return {f"iterations.{t}.{field}": fact for t, fact in enumerate(facts)}


_PAIRS_FROM = ((0,), (0, 1), (1, 2), (2, 3))
_BETAS = (0.1, 0.1, 0.1, 5.0)
_LEARNING_RATES = (5e-7, 5e-7, 1e-7, 1e-7)
_HALF_SILENT = "2 epochs an iteration; the paper does not say whether that is 2 of 2 or stopped after 2 of 6"

SETTINGS: dict[str, Fact] = {
    "sft_model.name": _paper("alignment-handbook/zephyr-7b-sft-full", "Mistral-7B-v0.1, fine-tuned"),
    "sft_model.revision": _paper(NOT_STATED),
    "prompts.dataset": _paper("HuggingFaceH4/ultrachat_200k", "first round of each dialogue only"),
    "prompts.revision": _paper(NOT_STATED),
    "prompts.num_prompts": _paper(50_000, "drawn at random"),
    "engine": _paper(NOT_STATED),
    "sampling.temperature": _paper(NOT_STATED, "only that y' is drawn from the opponent"),
    "sampling.top_p": _paper(NOT_STATED),
    "sampling.max_new_tokens": _paper(NOT_STATED),
    "generation_template": _paper("alpaca", "'### Instruction: {prompt}\\n\\n### Response: '"),
    "training_template": _paper("alpaca", "one template is given, and no other for training"),
    "tokenization": _paper(NOT_STATED),
    "objective": _paper("spin", "logistic; any convex decreasing loss is allowed", "V3 eq. 4.7, sec. 6.1"),
    "optimizer.name": _paper("rmsprop"),
    "optimizer.weight_decay": _paper(0.0, "'no weight decay'"),
    "optimizer.warmup_ratio": _paper(0.1),
    "optimizer.schedule": _paper(NOT_STATED, "10 % warmup; the shape of the decay is not given"),
    "optimizer.max_grad_norm": _paper(NOT_STATED),
    "lora": _paper(None, "all weights are trained; adapters are not mentioned"),
    "precision": _paper("bf16"),
    "global_batch_size": _paper(64),
    "max_length": _paper(2048, "tokens, prompt and response; the release trains with 1024"),
    "max_prompt_length": _paper(NOT_STATED),
    "seed": _paper(NOT_STATED),
    **_schedule("beta", tuple(_paper(beta) for beta in _BETAS)),
    **_schedule("learning_rate", tuple(_paper(rate, "peak") for rate in _LEARNING_RATES)),
    **_schedule("schedule_epochs", (_paper(2, _HALF_SILENT),) * NUM_ITERATIONS),
    **_schedule("stop_after_epochs", (_paper(2),) * NUM_ITERATIONS),
    **_schedule("pairs_from", tuple(_paper(sources, "new and most recent pairs") for sources in _PAIRS_FROM)),
}
"""What the paper's text states. Lengths in tokens, learning rates as peaks, batch in pairs."""

_GREEDY = "no do_sample, and the model's generation config (seen at another revision) sets none"

RELEASED: dict[str, Fact] = {
    "sft_model.name": _release("alignment-handbook/zephyr-7b-sft-full", _CONFIGS),
    "sft_model.revision": _release("ac6e600eefcce74f5e8bae1035d4f66019e93190", _REPO, "the Hub's main branch was later replaced"),
    "prompts.dataset": _release("HuggingFaceH4/ultrachat_200k", _REPO, "released as UCLA-AGI/SPIN_iter*"),
    "prompts.revision": _release(NOT_STATED, _REPO),
    "prompts.num_prompts": _release(49_800, "dataset SPIN_iter0", "and 500 for test; uploads before 2024-04-04 wrong"),
    "engine": Fact("hf", "authors", "uclaml/SPIN issue 36", "the paper used generate.py; the vLLM path differs"),
    "sampling.temperature": _release(0.0, _GENERATE, f"greedy: {_GREEDY}"),
    "sampling.top_p": _release(1.0, _GENERATE, f"without effect when greedy: {_GREEDY}"),
    "sampling.max_new_tokens": _release(256, _GENERATE),
    "generation_template": _release("alpaca", _GENERATE),
    "training_template": _release("zephyr", "uclaml/SPIN issue 33", "chat template with an empty system turn"),
    "tokenization": _release("release", _REPO, "see CONTEXT release.tokenization"),
    "objective": _release("spin", _REPO, "sigmoid; hinge is the only other choice"),
    "optimizer.name": _release("rmsprop", _CONFIGS),
    "optimizer.weight_decay": _release(0.0, _CONFIGS, "left at the trainer's default"),
    "optimizer.warmup_ratio": _release(0.1, _CONFIGS),
    "optimizer.schedule": _release("linear", _CONFIGS),
    "optimizer.max_grad_norm": _release(NOT_STATED, _CONFIGS),
    "lora": _release(None, _CONFIGS, "none asks for adapters"),
    "precision": _release("bf16", _CONFIGS, "torch_dtype left unset"),
    "global_batch_size": _release(64, _CONFIGS, "8 a GPU x 8 GPUs x 1; the README calls the default 16"),
    "max_length": _release(1024, _CONFIGS, "as in the handbook's DPO config; 2048 is its SFT length"),
    "max_prompt_length": _release(512, _CONFIGS),
    "seed": _release(42, _CONFIGS),
    **_schedule("beta", tuple(_release(beta, _SCRIPTS, "yaml alone: 0.1") for beta in _BETAS)),
    **_schedule("learning_rate", tuple(_release(rate, _SCRIPTS, "yaml alone: 5e-7") for rate in _LEARNING_RATES)),
    **_schedule("schedule_epochs", (_release(6, _SCRIPTS, "yaml 3, cards 2.0"),) * NUM_ITERATIONS),
    **_schedule("stop_after_epochs", (Fact(2, "authors", _ISSUES, "'stop as needed'; cards 2.0"),) * NUM_ITERATIONS),
    **_schedule("pairs_from", tuple(_release(sources, _CONFIGS) for sources in _PAIRS_FROM)),
}
"""What the released code and its authors do, under the same keys as SETTINGS."""

_TABLE_2 = "V3 Table 2"

TIMES: dict[str, Fact] = {
    "hardware": _paper("8xA100-80G", where=_TABLE_2),
    "generation_hours": _paper((1.45, 1.45, 1.45, 1.45), "one an iteration", _TABLE_2),
    "training_hours": _paper((4.32, 8.64, 8.64, 8.64), "one an iteration", _TABLE_2),
    "generation_seconds_per_64": _paper(6.69, "seconds for 64 examples", _TABLE_2),
    "training_seconds_per_64": _paper(10.0, "seconds for 64 examples, which is one step", _TABLE_2),
    "steps_per_epoch": Fact(778, "rerun", "uclaml/SPIN issue 12", "iter0; logs step 778 at epoch 1"),
}
"""Durations in the unit of the key. 778 steps x 2 epochs x 10 s = 4.32 h: two epochs really ran, on 49.8k pairs."""

_THEORY = "V3 sec. 5"
_LOSS = "E l(beta log[p(y|x)/p_t(y|x)] - beta log[p(y'|x)/p_t(y'|x)])"

_JOYYANG = "github Joyyang158/self-improvement-of-LLMs, README at 43ad657"
_ARGILLA = "argilla/distilabel repository and model cards"
_ARGILLA_RUN = "1,648 DIBT prompts, 184 for test; real = mistral-large; batch 64; 2 epochs"
_TSPIN_RUN = (
    "50k real and 50k generated an iteration, nothing carried over; rmsprop, 2048 tokens, batch 64, 8xH100; rates, epochs, beta not stated"
)

CONTEXT: dict[str, Fact] = {
    "paper.flash_attention_2": _paper(True, "off by default in the release; its 7B configs never set it"),
    "paper.zero_3": _paper(True, "scripts yes; README step 2 shows DDP"),
    "paper.generation_batch_size": _paper(64, "global, with Accelerate; the release runs 8 GPUs x 8"),
    "paper.pairs": _paper((50_000, 100_000, 100_000, 100_000), "an iteration"),
    "paper.loss": _paper(_LOSS, "l(t) = log(1 + exp(-t)), outside the difference", "V3 eq. 4.7"),
    "paper.losses": _paper(("spin", "spin_hinge", "spin_exponential", "spin_correlation"), "all are SPIN", f"{_THEORY}, Assumption 5.1"),
    "paper.loss_at_opponent": _paper(math.log(2), "nats: policy = opponent, logistic", f"{_THEORY}, Theorem 5.2"),
    "paper.update": _paper("p_next proportional to p (p_data/p)^(1/beta)", "logistic", f"{_THEORY}, Theorem 5.4"),
    "paper.dpo_data": _paper(62_000, "UltraFeedback examples; also those of SPIN + DPO, 2 epochs", "V3 Tables 3 to 5"),
    "paper.intro_gain": _paper(10.0, "percent, on GSM8K and TruthfulQA; true of iter2 and iter3", "V3 sec. 1"),
    "paper.mt_bench_categories": _paper("from iter1 above sft on all 8", "plot without numbers", "V3 Fig. 6"),
    "paper.nested_sizes": _paper((14_000, 26_000, 50_000), "iter0, 1 epoch each; scores: paper/data_size", "V3 Fig. 5"),
    "release.start": _release("previous SPIN checkpoint", "uclaml/SPIN issue 25", "which is also the opponent"),
    "release.num_test": _release(500, "dataset SPIN_iter0", "iter3 too"),
    "release.logps": _release("summed", _REPO, "prompt masked, dropout off"),
    "release.tokenization": _release(
        "no BOS; over 1024 tokens the prompt keeps its last 512, then the response its first 512; the template's EOS "
        "stays and one more is appended, also to responses cut at 256 tokens; EOS inside is attention-masked",
        _REPO,
    ),
    "release.shuffle_seed": _release(42, _REPO),
    "release.vllm.sampling": _release((1.0, 1.0, 256), f"{_REPO} generate_vllm.py", "temperature, top_p, tokens"),
    "release.versions": _release(
        {"transformers": "4.37.0", "trl": "0.7.4", "torch": "2.1.0", "deepspeed": "0.12.2", "vllm": "0.3.0"}, _REPO
    ),
    "release.yaml": _release({"epochs": 3, "learning_rate": 5e-7, "beta": 0.1}, _CONFIGS, "all four iterations"),
    "cards.epochs": _release(2.0, "model cards", "all four iterations"),
    "cards.learning_rate": _release(_LEARNING_RATES, "model cards"),
    "handbook.sft": _release("1 epoch, lr 2e-5, cosine, length 2048", "alignment-handbook@61a11a5"),
    "handbook.dpo": _release("beta 0.1, lr 5e-7, lengths 1024/512, 3 epochs, rmsprop", "alignment-handbook@61a11a5"),
}
"""What is stated but no recipe field holds. Keys say whose statement it is."""

HARNESS: dict[str, Fact] = {
    "commit": _release("46c796644913cd99da7eee868e64f9ed6af33407", f"{_REPO} README", "'which is v0.4.0': it is not"),
    "describe": Fact("v0.4.0-152", "ours", "git history of EleutherAI/lm-evaluation-harness", "dated 2023-12-28"),
    "winogrande_fix": Fact("cf6a83214", "ours", "lm-evaluation-harness #1255", "2024-01-08; not in the pinned commit"),
    "gsm8k.stop": Fact(("\n\n", "Question:"), "ours", "lm-evaluation-harness@46c7966", "greedy"),
    "gsm8k.regex": Fact(r"#### (-?[0-9.,]+)", "ours", "lm-evaluation-harness@46c7966", "then exact match"),
}
"""The evaluation harness behind the paper's leaderboard numbers: as the release pins it, and as git shows it."""

_TABLE_1 = "V3 Table 1"
_TABLE_6 = "V3 Table 6"
_BBH_NOTE = "standard few-shot CoT; the shot count is not printed"
_TRAP = (
    "the pinned commit drops the few-shot context of multi-input tasks (fixed by #1255), so '5-shot' is 0-shot in "
    "effect; hence 72 to 74 in the paper, 76.6 to 78.0 on the cards"
)

PROTOCOL: dict[str, Protocol] = {
    "arc_challenge": Protocol("acc_norm", 25, 25, "paper", _TABLE_1),
    "truthfulqa_mc2": Protocol("mc2", 0, 0, "paper", _TABLE_1),
    "winogrande": Protocol("acc", 5, 0, "paper", _TABLE_1, _TRAP),
    "gsm8k": Protocol("exact_match", 5, 5, "paper", _TABLE_1, "the paper calls the metric acc"),
    "hellaswag": Protocol("acc_norm", 10, 10, "paper", _TABLE_1),
    "mmlu": Protocol("acc", 5, 5, "paper", _TABLE_1),
    "openbookqa": Protocol("acc_norm", 1, None, "paper", _TABLE_6),
    "bbh_causal_judgement": Protocol("accuracy, few-shot CoT", None, None, "paper", _TABLE_6, _BBH_NOTE),
    "bbh_formal_fallacies": Protocol("accuracy, few-shot CoT", None, None, "paper", _TABLE_6, _BBH_NOTE),
    "bbh_sports_understanding": Protocol("accuracy, few-shot CoT", None, None, "paper", _TABLE_6, _BBH_NOTE),
    "mt_bench": Protocol("mean judge score, 1 to 10", None, None, "paper", _TABLE_6, "judge not stated"),
}
"""Metric and shots of each task of the paper; None where it does not say or no one checked what ran."""

_OUR_ERRORS = "binomial, on the paper's leaderboard table"
STANDARD_ERRORS: dict[str, Fact] = {
    task: Fact(points, "ours", _OUR_ERRORS, "percentage points, unpaired")
    for task, points in {
        "arc_challenge": 1.4, "truthfulqa_mc2": 1.7, "winogrande": 1.25, "gsm8k": 1.3, "hellaswag": 0.36,
        "mmlu": 0.41, "average": 0.49,
    }.items()
}  # fmt: skip
"""About how far chance alone moves one score, in percentage points. The last gain the paper prints, 0.19, is inside."""

_LAST_ROW = "V3 Tables 3 to 5, row SPIN iter3 + DPO"
MISPRINTS: tuple[Misprint, ...] = (
    Misprint("average of SPIN iter3 + DPO", 64.05, 64.74, _LAST_ROW, "iter3+dpo", "average"),
    Misprint("gain of SPIN iter3 + DPO over iter3", 0.89, 1.57, _LAST_ROW, "iter3+dpo", "average", "iter3"),
    Misprint("gain of iter0 on GSM8K, which 'exceeds 10 %'", 10.0, 8.34, "V3 sec. 6.2"),
)
"""Where the paper's text or a printed mean contradicts its own cells, in percent."""

RERUNS: dict[str, Fact] = {
    "rerun/joyyang158": Fact("Zephyr-7B, iter0 to iter3", "rerun", _JOYYANG),
    "rerun/joyyang158_llama2": Fact("Llama-2-7B, iter0 to iter3", "rerun", _JOYYANG),
    "rerun/issue12": Fact("Zephyr-7B, iter0, epochs 1 to 3, ARC only", "rerun", "uclaml/SPIN issue 12"),
    "rerun/argilla_mt_bench": Fact("iter0 to iter3, the paper's schedule", "rerun", _ARGILLA, _ARGILLA_RUN),
    "rerun/argilla_held_out": Fact("the same run, iter2 and iter3, on its test prompts", "rerun", _ARGILLA, _ARGILLA_RUN),
    "rerun/tspin_zephyr": Fact("Zephyr, iter0 to iter4", "rerun", "arXiv 2601.08198", _TSPIN_RUN),
    "rerun/tspin_mistral": Fact("Mistral, iter0 to iter4", "rerun", "arXiv 2601.08198", _TSPIN_RUN),
}
"""Table of CLAIMS -> what was run. A gain at iter0 repeats, save T-SPIN's Mistral (+0.09); growth up to iter3 repeats on MT-Bench only."""

NOT_RECOVERABLE: tuple[NotRecoverable, ...] = (
    NotRecoverable("MT-Bench per category", "radar plot only, V3 Fig. 6"),
    NotRecoverable("the paper's decoding: temperature, top_p, length", "not stated in the paper; the authors name only the HF path"),
    NotRecoverable("2 epochs of 2, or 2 of 6", "not stated; that iter0 is epoch 2 of a curve up to epoch 5 speaks for the latter"),
    NotRecoverable("shots of the Big-Bench tasks", "'standard few-shot CoT' only"),
    NotRecoverable("MT-Bench judge and its version", "not stated"),
    NotRecoverable("MT-Bench, Big-Bench and OpenBookQA of iter3 and DPO", "not reported"),
    NotRecoverable("hyperparameters of SPIN + DPO", "only '2 epochs, the same 62k'"),
    NotRecoverable("seeds and variance", "no repeated run is reported"),
    NotRecoverable("live leaderboard row of the SFT revision SPIN trained", "the row is another's"),
    NotRecoverable("scores of SPACE (arXiv 2512.07175)", "secondary sources only"),
    NotRecoverable("formula and scores of SGALM (arXiv 2602.01137)", "prose only"),
    NotRecoverable("tables of IRIS (arXiv 2604.20933)", "only its abstract was read"),
    NotRecoverable("MT-Bench and leaderboard scores of SPPO", "secondary sources or memory only"),
    NotRecoverable("six-task mean of the T-SPIN re-runs", "no ARC or TruthfulQA there"),
)
"""What cannot be encoded, and why: a comparison with any of these is refused, never guessed."""
