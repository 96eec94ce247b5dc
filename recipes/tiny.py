"""Everything in minutes on two CPU cores, nothing downloaded: a two-layer model on a source whose true distribution is known.

A base model reads text of which half the responses are corrupted; a short fine-tuning on clean responses leaves it far from the
source in a systematic way that can be learned: many answers are valid, and it still gives corrupted ones. Self-play and the control
(as many gradient steps of further SFT) then train on the same 1,500 clean responses. results/tiny/SEARCH.md tells how this
setting was found, and that no setting was found in which self-play beats a well-tuned control.
"""

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
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
        },
        seed=0,
    ),
    pretraining=Finetuning(
        learning_rate=2e-3,
        num_epochs=1,
        global_batch_size=64,
        optimizer=ADAMW,
        prompts=PromptSource(source="procedural", dataset="procedural", split="pretrain", num_prompts=32_000, shuffle_seed=100),
    ),
    sft=Finetuning(learning_rate=1e-4, num_epochs=1, global_batch_size=96, optimizer=ADAMW),
    controls={"control": Finetuning(learning_rate=1e-4, global_batch_size=64, optimizer=ADAMW)},
    prompts=PromptSource(source="procedural", dataset="procedural", split="train", num_prompts=1500, shuffle_seed=0),
    engine="hf",
    sampling=Sampling(temperature=1.0, max_new_tokens=24),
    generation_template="chat",
    training_template="chat",
    tokenization="modern",
    optimizer=Optimizer(name="rmsprop", weight_decay=0.0, warmup_ratio=0.1, schedule="linear", max_grad_norm=1.0),
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
        Benchmark(name="big_bench", protocol="current", tasks=(Task(name="tiny_mixed_sample", shots=0, metric="valid", limit=600),)),
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
            tasks=(Task(name="kl", metric="nats", limit=600), Task(name="invalid_mass", metric="percent", limit=600)),
        ),
    ),
    seed=0,
    sizes=Sizes(num_parameters=8.6e4, prompt_tokens=9, real_tokens=7, generated_tokens=7),
    because={
        "sft_model": "small enough for minutes on a CPU, and made by code: nothing is downloaded",
        "prompts": "a procedural source: the true distribution of its responses is known exactly",
        "engine": "not stated; the one engine that needs no GPU",
        "sampling": "not stated; the policy's own distribution",
        "generation_template": "the model only knows its chat template",
        "training_template": "as in generation",
        "tokenization": "not stated; one EOS at the end of a response",
        "optimizer": "not stated: linear decay and clipping at 1, as in the release",
        "precision": "bf16 is unusable on CPUs without its instructions",
        "global_batch_size": "1,500 prompts give 46 steps an epoch at 32",
        "max_length": "longer than any pair here",
        "max_prompt_length": "not stated; longer than any prompt here",
        "iterations": "three instead of four for time; beta 1 and 1e-4 chosen by the search in results/tiny/SEARCH.md",
        "seed": "not stated",
    },
)
