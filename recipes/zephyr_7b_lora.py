"""`zephyr-7b` with low-rank adapters, for one 80 GB GPU: the paper trains all weights, whose gradients and state one card does not hold.

Everything but the trained weights and the learning rates is the paper's text. The paper reports no such run, and we know of none; whether
adapters do what full training does is the question. docs/hardware.md says what a 24 GB card needs.
"""

from harness.recipe import Iteration, Lora, load, replace

recipe = replace(
    load("zephyr-7b"),
    name="zephyr-7b-lora",
    summary="zephyr-7b with adapters instead of full training, for one 80 GB GPU",
    lora=Lora(rank=16, alpha=16, targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
    iterations=(
        Iteration(beta=0.1, learning_rate=5e-6, pairs_from=(0,)),
        Iteration(beta=0.1, learning_rate=5e-6, pairs_from=(0, 1)),
        Iteration(beta=0.1, learning_rate=1e-6, pairs_from=(1, 2)),
        Iteration(beta=5.0, learning_rate=1e-6, pairs_from=(2, 3)),
    ),
    because={
        "lora": "the paper trains all weights: 87 GB with gradients and RMSProp's state, more than one card holds. Rank 16, alpha 16 and "
        "the seven linear layers of a block are the handbook's (zephyr-7b-beta/dpo/config_qlora.yaml); its dropout of 0.05 is left out, so "
        "that training draws nothing",
        "iterations": "ten times the paper's learning rates, all else as there: the handbook's DPO of this model takes 5e-7 in full "
        "(config_full.yaml) and 5e-6 with adapters (config_qlora.yaml)",
    },
)
