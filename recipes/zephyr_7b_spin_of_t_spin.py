"""SPIN as T-SPIN's authors ran it again (arXiv 2601.08198, Table 1): five iterations, nothing carried over, ten tasks. A plan.

Stated there: 50k real and 50k generated responses an iteration, the Alpaca template, RMSProp without weight decay, 10 % warm-up, 64 pairs a
step, 2048 tokens. Not stated there: SPIN's beta, learning rates, epochs, decoding, the model's revision, the harness's version. The ten
tasks have the shots of its Table 3. Its metrics fit lm-eval's tasks of the second Open LLM Leaderboard: MATH is the hardest level, and
Big-Bench Hard 24 subsets with choices. Where it calls a metric acc and lm-eval has none of that name (GSM8K, MATH, IFEval),
lm-eval's stands here.

GPQA is a gated data set: log in to the Hub once. IFEval and MATH need the packages of the extra `t-spin`.
"""

from harness.recipe import Benchmark, Task, load, replace

base = load("zephyr-7b")
last = base.iterations[-1]
schedule = (*base.iterations, last)

SUITE = Benchmark(
    name="lm_eval",
    protocol="t-spin",
    tasks=(
        Task(name="gsm8k", shots=5, metric="exact_match,strict-match"),
        Task(name="leaderboard_math_hard", shots=4, metric="exact_match"),
        Task(name="leaderboard_musr", shots=0, metric="acc_norm"),
        Task(name="mmlu", shots=5, metric="acc"),
        Task(name="leaderboard_mmlu_pro", shots=5, metric="acc"),
        Task(name="leaderboard_gpqa", shots=0, metric="acc_norm"),
        Task(name="hellaswag", shots=10, metric="acc_norm"),
        Task(name="winogrande", shots=5, metric="acc"),
        Task(name="leaderboard_bbh", shots=3, metric="acc_norm"),
        Task(name="leaderboard_ifeval", shots=0, metric="prompt_level_strict_acc"),
    ),
)

recipe = replace(
    base,
    name="zephyr-7b-spin-of-t-spin",
    summary="SPIN as T-SPIN's authors ran it again: 5 iterations, nothing carried over, ten tasks",
    iterations=tuple(iteration.model_copy(update={"pairs_from": (t,)}) for t, iteration in enumerate(schedule)),
    benchmarks=(SUITE, base.benchmarks[-1]),
    because={
        "iterations": "T-SPIN's re-run: five iterations, each on its own 50k pairs; its beta, learning rates and epochs are not stated, "
        "so they are the SPIN paper's, and iteration 4 goes on as iteration 3",
    },
)
