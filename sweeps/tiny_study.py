"""SPIN at a scale where everything can be run: `tiny` under five seeds, against further SFT, DPO and the losses that came after it.

    spin     the recipe itself, and beside its iterations the rows
             control          further SFT, as many gradient steps as all iterations together (each of tiny's controls)
             control-compute  further SFT, as many FLOPs as all iterations together, generation and opponent included: 413 steps, fewer
                              than control's 464, since a batch of SFT here has twice the prompts of a batch of pairs
             dpo              DPO on preferences (valid against slightly wrong), about as many gradient steps as all iterations together
             iter0-longer     iteration 0's own pairs, about as many gradient steps as all iterations together
    hinge    the same with the hinge loss
    space    the same with SPACE's loss at mu 1 (its formula is grade C+); it has no beta
    t-spin   the same with T-SPIN's loss: alpha 1, the past weighted 0 at iteration 0 and 0.1 later, and no carried-over pairs, so
             fewer steps

Learning rates are SPIN's for every loss: nothing here is tuned for the others, which the reader must hold against any verdict.
"""

from harness.plan import steps_of
from harness.recipe import Iteration, PairTraining, Recipe, load, replace
from harness.runs.needs.costs import steps_at_equal_flops
from harness.runs.sweeps import Sweep, seeded

SEEDS = 5
tiny = load("tiny")
first = tiny.iterations[0]
per_epoch = tiny.prompts.num_prompts // tiny.global_batch_size
epochs = max(1, round(sum(steps_of(tiny, t) for t in range(len(tiny.iterations))) / per_epoch))
same_steps = {row: control for row, control in tiny.controls.items() if control.num_epochs is None and control.num_steps is None}


def rival(objective: str, *, on_preferences: bool) -> PairTraining:
    return PairTraining(
        objective=objective,
        prompts=tiny.prompts if on_preferences else None,
        beta=first.beta,
        learning_rate=first.learning_rate,
        num_epochs=epochs,
        global_batch_size=tiny.global_batch_size,
        optimizer=tiny.optimizer,
    )


def variant(name: str, objective: str, iterations: tuple[Iteration, ...]) -> Recipe:
    return replace(
        tiny,
        name=f"tiny-{name}",
        summary=f"tiny with the objective {objective}",
        objective=objective,
        iterations=iterations,
        controls={},
        rivals={},
    )


spin = replace(
    tiny,
    name="tiny-spin",
    controls={
        **tiny.controls,
        **{
            f"{row}-compute": control.model_copy(update={"num_steps": steps_at_equal_flops(tiny, control.global_batch_size)})
            for row, control in same_steps.items()
        },
    },
    rivals={**tiny.rivals, "dpo": rival("dpo", on_preferences=True), "iter0-longer": rival("spin", on_preferences=False)},
)
hinge = variant("hinge", "spin_hinge", tiny.iterations)
space = variant("space", "space", tuple(i.model_copy(update={"parameters": {"mu": 1.0}}) for i in tiny.iterations))
t_spin = variant(
    "t-spin",
    "t_spin",
    tuple(
        i.model_copy(update={"beta": 1.0, "pairs_from": (t,), "parameters": {"proto_weight": 0.1 if t else 0.0}})
        for t, i in enumerate(tiny.iterations)
    ),
)

sweep = Sweep(
    name="tiny-study",
    summary="tiny under five seeds: SPIN against further SFT, DPO, the hinge loss, SPACE and T-SPIN",
    variants={"spin": seeded(spin, SEEDS), "hinge": seeded(hinge, SEEDS), "space": seeded(space, SEEDS), "t-spin": seeded(t_spin, SEEDS)},
)
