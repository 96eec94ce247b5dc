"""The paper's schedule with every row of its tables: one more epoch of SFT, DPO on UltraFeedback, iteration 3 followed by DPO.

Beside them iteration 0 trained for twice its epochs (the paper's figure of epochs, V2 Fig. 5). The paper states neither the settings of
its DPO rows nor those of the further epoch: what stands here is the alignment handbook's, as the comments say.
"""

from harness.recipe import Finetuning, Optimizer, PairTraining, PromptSource, load, replace

base = load("zephyr-7b")
first = base.iterations[0]

# zephyr-7b-sft-full's model card: lr 2e-5, cosine, 10 % warm-up, 128 a step, Adam; the paper says Ultrachat200k, 200k usable prompts here
MORE_SFT = Finetuning(
    learning_rate=2e-5,
    num_epochs=1,
    global_batch_size=128,
    optimizer=Optimizer(name="adamw", weight_decay=0.0, warmup_ratio=0.1, schedule="cosine", max_grad_norm=1.0),
    prompts=base.prompts.model_copy(update={"num_prompts": 200_000}),
)
# beta, learning rate, optimizer and schedule are the handbook's Zephyr DPO config, which SPIN's own copies; 2 epochs is the paper's
# (stated for iter3+dpo alone). "62k" are 61k rows, of which 60k are surely usable: two answers, different, to a prompt not seen before
DPO = PairTraining(
    objective="dpo",
    prompts=PromptSource(
        source="hub",
        dataset="HuggingFaceH4/ultrafeedback_binarized",
        revision="3949bf5f8c17c394422ccfab0c31ea9c20bdeb85",
        split="train_prefs",
        num_prompts=60_000,
        shuffle_seed=42,
    ),
    beta=0.1,
    learning_rate=5e-7,
    num_epochs=2,
    global_batch_size=64,
    optimizer=base.optimizer,
)

recipe = replace(
    base,
    name="zephyr-7b-baselines",
    summary="zephyr-7b with the paper's other rows: further SFT, DPO, iteration 3 then DPO, and iteration 0 for longer",
    controls={"sft+1epoch": MORE_SFT},
    rivals={
        "dpo": DPO,
        "iter0-longer": PairTraining(
            objective="spin",
            beta=first.beta,
            learning_rate=first.learning_rate,
            num_epochs=2 * first.stop_after_epochs,
            global_batch_size=base.global_batch_size,
            optimizer=base.optimizer,
        ),
        "iter3+dpo": DPO.model_copy(update={"start": "iter3"}),
    },
)
