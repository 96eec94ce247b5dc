"""T-SPIN (arXiv 2601.08198) on zephyr-7b-sft-full: triplets with iteration 0's responses, no reference model, five iterations. A plan.

Stated there: alpha 1 (beta here); its beta (proto_weight here) 0 at iteration 0 and 0.1 later; the rest as in zephyr-7b-spin-of-t-spin, the
re-run of SPIN beside it. Not stated there: learning rates, epochs, decoding, the model's revision, the harness's version.
"""

from harness.recipe import load, replace

base = load("zephyr-7b-spin-of-t-spin")

recipe = replace(
    base,
    name="zephyr-7b-t-spin",
    summary="T-SPIN: triplets with iteration 0's responses, no reference model, 5 iterations, ten tasks",
    objective="t_spin",
    iterations=tuple(
        iteration.model_copy(update={"beta": 1.0, "parameters": {"proto_weight": 0.1 if t else 0.0}})
        for t, iteration in enumerate(base.iterations)
    ),
    because={
        "objective": "T-SPIN's equations (4) and (6)",
        "iterations": "T-SPIN: alpha 1, beta 0 at iteration 0 and 0.1 later, five iterations, each on its own 50k pairs; learning rates "
        "and epochs are not stated, so they are the SPIN paper's, and iteration 4 goes on as iteration 3",
    },
)
