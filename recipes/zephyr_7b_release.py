"""What the scripts and the authors' comments do: greedy HF generation, '### Instruction' prompts without BOS, 1024/512 tokens,
a 6-epoch schedule stopped after 2, the chat template in training (uclaml/SPIN, issues 12 and 36)."""

from harness.recipe import Iteration, Sampling, load, replace

SCHEDULE = {"schedule_epochs": 6, "stop_after_epochs": 2}

recipe = replace(
    load("zephyr-7b"),
    name="zephyr-7b-release",
    summary="what the release and its authors do: greedy, 1024/512 tokens, 2 of 6 epochs",
    prompts=load("zephyr-7b").prompts.model_copy(update={"num_prompts": 49_800}),
    sampling=Sampling(temperature=0.0, top_p=1.0, max_new_tokens=256, add_bos=False),
    training_template="zephyr",
    tokenization="release",
    max_length=1024,
    max_prompt_length=512,
    iterations=(
        Iteration(beta=0.1, learning_rate=5e-7, pairs_from=(0,), **SCHEDULE),
        Iteration(beta=0.1, learning_rate=5e-7, pairs_from=(0, 1), **SCHEDULE),
        Iteration(beta=0.1, learning_rate=1e-7, pairs_from=(1, 2), **SCHEDULE),
        Iteration(beta=5.0, learning_rate=1e-7, pairs_from=(2, 3), **SCHEDULE),
    ),
    because={
        "prompts.revision": "the release's own sets are re-uploads of 2024-04-04; a pinned commit of their source is used",
        "prompts.num_prompts": "the released SPIN_iter0 holds 49.8k training rows",
        "sampling.temperature": "generate.py passes no sampling arguments: greedy",
        "sampling.top_p": "greedy",
        "sampling.max_new_tokens": "generate.py: max_new_tokens=256",
        "training_template": "run_spin.py trains with the Zephyr chat template, generation uses '### Instruction' (issue 33)",
        "tokenization": "an extra EOS after the template's own, interior EOS masked from attention",
        "max_length": "configs: max_length 1024",
        "max_prompt_length": "configs: max_prompt_length 512",
        "iterations": "scripts schedule 6 epochs and the authors stop after 2 (issues 12, 36); inferred (grade B): the published iter0 row "
        "is epoch 2 of the curve of V3 Fig. 4, which runs to epoch 5, so its run was scheduled for 5 or more",
    },
)
