"""provisional"""

from harness.recipe import Benchmark, Finetuning, Iteration, Judge, ModelRef, Optimizer, PromptSource, Recipe, Sampling, Sizes, Task

ADAMW = Optimizer(name="adamw", weight_decay=0.0, warmup_ratio=0.1, schedule="linear", max_grad_norm=1.0)

recipe = Recipe(
    name="tiny",
    summary="a two-layer model on a procedural source whose true distribution is known: everything, in minutes on 2 CPU cores",
    sft_model=ModelRef(
        source="scratch",
        name="procedural",
        config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
        },
        seed=0,
    ),
    sft=Finetuning(learning_rate=3e-3, num_epochs=4, global_batch_size=32, optimizer=ADAMW),
    controls={"control": Finetuning(learning_rate=1e-3, global_batch_size=32, optimizer=ADAMW)},
    prompts=PromptSource(source="procedural", dataset="procedural", split="train", num_prompts=1500, shuffle_seed=0),
    engine="hf",
    sampling=Sampling(temperature=1.0, max_new_tokens=24),
    generation_template="chat",
    training_template="chat",
    tokenization="modern",
    optimizer=Optimizer(name="rmsprop", warmup_ratio=0.1, schedule="linear", max_grad_norm=1.0),
    precision="fp32",
    global_batch_size=32,
    max_length=128,
    max_prompt_length=64,
    iterations=(
        Iteration(beta=1.0, learning_rate=1e-4, pairs_from=(0,)),
        Iteration(beta=1.0, learning_rate=1e-4, pairs_from=(0, 1)),
        Iteration(beta=1.0, learning_rate=1e-4, pairs_from=(1, 2)),
    ),
    benchmarks=(
        Benchmark(
            name="open_llm",
            protocol="current",
            tasks=(
                Task(name="tiny_shuffle_choice", shots=0, metric="acc", limit=200),
                Task(name="tiny_pick_choice", shots=0, metric="acc", limit=200),
                Task(name="tiny_merge_choice", shots=0, metric="acc", limit=200),
            ),
        ),
        Benchmark(name="big_bench", protocol="current", tasks=(Task(name="tiny_mixed_sample", shots=0, metric="valid", limit=300),)),
        Benchmark(
            name="mt_bench",
            protocol="rule",
            tasks=(Task(name="tiny_mt_bench", metric="points of 10", limit=80),),
            judge=Judge(name="rule_based", model="rule"),
            max_new_tokens=24,
        ),
        Benchmark(
            name="distribution",
            protocol="exact",
            tasks=(Task(name="kl", metric="nats", limit=300), Task(name="invalid_mass", metric="percent", limit=300)),
        ),
    ),
    seed=0,
    sizes=Sizes(num_parameters=1.3e5, prompt_tokens=9, real_tokens=7, generated_tokens=7),
)
