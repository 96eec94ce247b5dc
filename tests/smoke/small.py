"""`tiny` cut down to what a kill can hit: every kind of stage, carried-over pairs, a model of a few thousand parameters.

Sized so that tests/smoke/test_interruption.py, which makes this run twice and kills one of them four times, ends within two minutes.
Its scores are distances to the known distribution, which differ in their last digits as soon as a weight does.
"""

from harness.recipe import Benchmark, Iteration, ModelRef, Optimizer, PromptSource, Recipe, Sampling, Sizes, Task

recipe = Recipe(
    name="small",
    summary="the interruption test's: every kind of stage, two iterations",
    sft_model=ModelRef(
        source="scratch",
        name="procedural",
        config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
        },
    ),
    prompts=PromptSource(source="procedural", dataset="procedural", num_prompts=64, shuffle_seed=0),
    engine="hf",
    sampling=Sampling(temperature=1.0, max_new_tokens=12),
    generation_template="chat",
    training_template="chat",
    tokenization="modern",
    optimizer=Optimizer(),
    precision="fp32",
    global_batch_size=16,
    max_length=96,
    max_prompt_length=64,
    iterations=(
        Iteration(beta=0.1, learning_rate=1e-3, pairs_from=(0,)),
        Iteration(beta=0.1, learning_rate=1e-3, pairs_from=(0, 1)),
    ),
    benchmarks=(Benchmark(name="distribution", protocol="exact", tasks=(Task(name="kl", metric="nats", limit=32),)),),
    seed=0,
    sizes=Sizes(num_parameters=1e4, prompt_tokens=9, real_tokens=7, generated_tokens=7),
)
