"""The paper's ablations of zephyr-7b, and the switches on which its text and its release part. A plan: 8 x A100 for weeks.

    paper          every row of the paper's tables; `iter0-longer` is its figure of epochs: more at iteration 0 against iteration 1
    14k, 26k, 50k  its figure of sizes: nested subsets (a smaller one is a prefix of the same shuffle), iteration 0, one epoch each
    fresh          without carried-over pairs: each iteration trains on its own responses alone
    beta-0.1       the paper raises beta to 5 at iteration 3; here it stays
    beta-1         beta 1 throughout, at which the exact step of Theorem 5.4 is the data's distribution
    512-tokens     generated responses of up to 512 tokens instead of 256: less of a length shortcut
    64-tokens      up to 64 tokens: more of one

Another base revision (the Hub's main of zephyr-7b-sft-full was overwritten in January 2024) is missing: no text we could read names its
commit. With the commit it is one more variant, `sft_model=ModelRef(..., revision=...)`.
"""

from harness.recipe import Recipe, load, replace
from harness.runs.sweeps import Sweep

baselines = load("zephyr-7b-baselines")
paper = replace(load("zephyr-7b"), name="ablation", claims=None)
first = paper.iterations[0]


def subset(thousands: int) -> Recipe:
    smaller = {"prompts.num_prompts": f"the paper's figure of sizes: {thousands}k"} if thousands < 50 else {}
    return replace(
        paper,
        name=f"zephyr-7b-{thousands}k",
        summary=f"iteration 0 on {thousands}k prompts, one epoch",
        prompts=paper.prompts.model_copy(update={"num_prompts": thousands * 1000}),
        iterations=(first.model_copy(update={"schedule_epochs": 1, "stop_after_epochs": 1}),),
        because={
            **smaller,
            "prompts.revision": paper.because["prompts.revision"],
            "iterations": "iteration 0 for one epoch, as in the paper's figure of sizes",
        },
    )


def betas(name: str, beta: float) -> Recipe:
    return replace(
        paper,
        name=f"zephyr-7b-{name}",
        summary=f"beta {beta} at every iteration",
        iterations=tuple(iteration.model_copy(update={"beta": beta}) for iteration in paper.iterations),
        because={"iterations": f"ablation: beta {beta} at every iteration"},
    )


def length_cap(tokens: int) -> Recipe:
    why = {f"sampling.{field}": paper.because[f"sampling.{field}"] for field in ("temperature", "top_p")}
    return replace(
        paper,
        name=f"zephyr-7b-{tokens}-tokens",
        summary=f"generated responses of up to {tokens} tokens",
        sampling=paper.sampling.model_copy(update={"max_new_tokens": tokens}),
        because={**why, "sampling.max_new_tokens": f"ablation of the length shortcut: {tokens} tokens, the release generates up to 256"},
    )


fresh = replace(
    paper,
    name="zephyr-7b-fresh",
    summary="no carried-over pairs",
    iterations=tuple(iteration.model_copy(update={"pairs_from": (t,)}) for t, iteration in enumerate(paper.iterations)),
    because={"iterations": "ablation: each iteration trains on its own responses alone"},
)

sweep = Sweep(
    name="zephyr-7b-ablations",
    summary="zephyr-7b: the paper's baselines and ablations, beta, carried-over pairs and the length of generated responses",
    variants={
        "paper": (baselines,),
        "14k": (subset(14),),
        "26k": (subset(26),),
        "50k": (subset(50),),
        "fresh": (fresh,),
        "beta-0.1": (betas("beta-0.1", 0.1),),
        "beta-1": (betas("beta-1", 1.0),),
        "512-tokens": (length_cap(512),),
        "64-tokens": (length_cap(64),),
    },
)
