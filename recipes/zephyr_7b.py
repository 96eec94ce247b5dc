"""The paper's text, written out: zephyr-7b-sft-full against itself, four iterations on 50k UltraChat prompts.

Where the text states nothing the gap is filled, and `because` says from where. `harness diff zephyr-7b zephyr-7b-release`
shows where the text and its release part.
"""

from harness.recipe import Benchmark, Iteration, Judge, ModelRef, Optimizer, PromptSource, Recipe, Sampling, Sizes, Task

LEADERBOARD = Benchmark(
    name="open_llm",
    protocol="lm-eval@46c7966",
    tasks=(
        Task(name="arc_challenge", shots=25, metric="acc_norm"),
        Task(name="truthfulqa_mc2", shots=0, metric="acc"),
        Task(name="winogrande", shots=5, metric="acc"),
        Task(name="gsm8k", shots=5, metric="exact_match"),
        Task(name="hellaswag", shots=10, metric="acc_norm"),
        Task(name="mmlu", shots=5, metric="acc"),
        Task(name="openbookqa", shots=1, metric="acc_norm"),
    ),
)
BIG_BENCH = Benchmark(
    name="big_bench",
    protocol="lm-eval@46c7966",
    tasks=(
        Task(name="bbh_causal_judgement", shots=3, metric="exact_match"),
        Task(name="bbh_formal_fallacies", shots=3, metric="exact_match"),
        Task(name="bbh_sports_understanding", shots=3, metric="exact_match"),
    ),
)
MT_BENCH = Benchmark(
    name="mt_bench",
    protocol="single-answer",
    tasks=(Task(name="mt_bench", metric="points of 10"),),
    judge=Judge(name="mt_bench_single"),
    max_new_tokens=1024,
)
HELD_OUT = Benchmark(
    name="held_out",
    protocol="as trained",
    tasks=(
        Task(name="held_out_nll_per_token", metric="nats a token"),
        Task(name="held_out_nll", metric="nats"),
        Task(name="held_out_margin", metric="nats"),
        Task(name="held_out_accuracy", metric="percent"),
        Task(name="held_out_margin_like_length", metric="nats"),
        Task(name="held_out_accuracy_like_length", metric="percent"),
    ),
)
ULTRACHAT = PromptSource(
    source="hub",
    dataset="HuggingFaceH4/ultrachat_200k",
    revision="8049631c405ae6576f93f445c6b8166f76f5505a",
    split="train_sft",
    num_prompts=50_000,
    shuffle_seed=42,
)

recipe = Recipe(
    name="zephyr-7b",
    summary="the paper's text: zephyr-7b-sft-full, 50k UltraChat prompts, 4 iterations",
    sft_model=ModelRef(
        source="hub",
        name="alignment-handbook/zephyr-7b-sft-full",
        revision="ac6e600eefcce74f5e8bae1035d4f66019e93190",
    ),
    prompts=ULTRACHAT,
    held_out=ULTRACHAT.model_copy(update={"split": "test_sft", "num_prompts": 1000}),
    engine="hf",
    sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=256),
    generation_template="alpaca",
    training_template="alpaca",
    tokenization="modern",
    objective="spin",
    optimizer=Optimizer(name="rmsprop", weight_decay=0.0, warmup_ratio=0.1, schedule="linear", max_grad_norm=1.0),
    precision="bf16",
    global_batch_size=64,
    max_length=2048,
    max_prompt_length=1024,
    iterations=(
        Iteration(beta=0.1, learning_rate=5e-7, pairs_from=(0,)),
        Iteration(beta=0.1, learning_rate=5e-7, pairs_from=(0, 1)),
        Iteration(beta=0.1, learning_rate=1e-7, pairs_from=(1, 2)),
        Iteration(beta=5.0, learning_rate=1e-7, pairs_from=(2, 3)),
    ),
    benchmarks=(LEADERBOARD, BIG_BENCH, MT_BENCH, HELD_OUT),
    seed=42,
    claims="alignment-handbook/zephyr-7b-sft-full",
    sizes=Sizes(num_parameters=7.24e9, prompt_tokens=170, real_tokens=280, generated_tokens=220),
    because={
        "sft_model.revision": "the text names none; the release pins this commit and the Hub's main was overwritten later",
        "prompts.revision": "the text names none; a pinned commit of ultrachat_200k",
        "engine": "the text names none; the authors say its numbers were made through HF generate (uclaml/SPIN issue 36)",
        "sampling.temperature": "the algorithm samples y' from the policy; no temperature is stated, 1 is the policy's own distribution",
        "sampling.top_p": "not stated; 1 leaves the policy's distribution as it is",
        "sampling.max_new_tokens": "not stated; the released generators use 256",
        "tokenization": "not stated; one template for generation and training, one EOS",
        "optimizer.schedule": "10 % warm-up is stated, the decay is not; the release decays linearly to 0",
        "optimizer.max_grad_norm": "not stated; 1.0 is the transformers trainer's default, under which the release ran",
        "max_prompt_length": "not stated; half of the 2048 tokens",
        "seed": "not stated; the release uses 42",
    },
)
