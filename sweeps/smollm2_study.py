"""The rows of `tiny-study` on a real model, one seed: SmolLM2-135M-Instruct against further SFT, DPO and the losses that came after SPIN.

With 32 prompts and a few questions a task it shows that every path works on a real model and real preferences, not which one is better.
DPO reads the same rows of ultrafeedback_binarized, of which one is left out: its two answers are the same. Only open_llm is asked:
MT-Bench has no judge here, and three times eight questions of BBH tell nothing apart. The later losses get two iterations, for time.
Where `harness reproduce smollm2-135m` has run beside it, its iterations are shared; the rest takes an hour and a half on 2 CPU cores.
"""

from harness.plan import steps_of
from harness.recipe import Finetuning, PairTraining, load, replace
from harness.runs.needs.costs import steps_at_equal_flops
from harness.runs.sweeps import Sweep

SAME_ANSWERS = "d040e29ff370a424"
full = load("smollm2-135m")
base = replace(full, name="smollm2-open-llm", benchmarks=full.benchmarks[:1])
first = base.iterations[0]
usable = tuple(prompt_id for prompt_id in base.prompts.prompt_ids if prompt_id != SAME_ANSWERS)
per_epoch = len(usable) // base.global_batch_size
steps = sum(steps_of(base, t) for t in range(len(base.iterations)))
more_sft = Finetuning(learning_rate=first.learning_rate, global_batch_size=base.global_batch_size, optimizer=base.optimizer)

spin = replace(
    base,
    name="smollm2-spin",
    controls={
        **base.controls,
        "control": more_sft,
        "control-compute": more_sft.model_copy(update={"num_steps": steps_at_equal_flops(base, base.global_batch_size)}),
    },
    rivals={
        **base.rivals,
        "dpo": PairTraining(
            prompts=base.prompts.model_copy(update={"num_prompts": len(usable), "prompt_ids": usable}),
            beta=first.beta,
            learning_rate=first.learning_rate,
            num_epochs=round(steps / per_epoch),
            global_batch_size=base.global_batch_size,
            optimizer=base.optimizer,
        ),
    },
)
two = base.iterations[:2]
WHY = "two instead of four for time; ten times the learning rate, since there are 24 steps and not 10 000"
hinge = replace(
    base,
    name="smollm2-hinge",
    summary="smollm2-135m with the objective spin_hinge, two iterations",
    objective="spin_hinge",
    iterations=two,
    because={"iterations": WHY},
)
space = replace(
    base,
    name="smollm2-space",
    summary="smollm2-135m with the objective space, two iterations",
    objective="space",
    iterations=tuple(i.model_copy(update={"parameters": {"mu": 1.0}}) for i in two),
    because={"iterations": WHY},
)
t_spin = replace(
    base,
    name="smollm2-t-spin",
    summary="smollm2-135m with the objective t_spin, two iterations",
    objective="t_spin",
    iterations=tuple(
        i.model_copy(update={"beta": 1.0, "pairs_from": (t,), "parameters": {"proto_weight": 0.1 if t else 0.0}}) for t, i in enumerate(two)
    ),
    because={"iterations": f"T-SPIN: alpha 1, no carried-over pairs; else {WHY}"},
)

sweep = Sweep(
    name="smollm2-study",
    summary="SmolLM2-135M, one seed: SPIN against further SFT, DPO, the hinge loss, SPACE and T-SPIN",
    variants={"spin": (spin,), "hinge": (hinge,), "space": (space,), "t-spin": (t_spin,)},
)
