"""The release's 70B settings (uclaml/SPIN configs/tulu-70B, scripts/tulu-70B): tulu-2-70b on 55k prompts of its own SFT mixture.

A plan. The paper reports no run of it, and the release no score. Two things stand between this and a run: the Hub repository holds no
safetensors weights (convert them and name the directory with `ModelRef(source="path")`), and 70B needs several nodes.
"""

from harness.recipe import Iteration, ModelRef, PromptSource, Sampling, Sizes, load, replace

base = load("zephyr-7b")

recipe = replace(
    base,
    name="tulu-2-70b",
    summary="the release's 70B settings: tulu-2-70b, 55k prompts of its SFT mixture, iteration 0",
    sft_model=ModelRef(source="hub", name="allenai/tulu-2-70b", revision="be647298930cfc399d984fb36b84261de8bd9ce6", dtype="bfloat16"),
    prompts=PromptSource(
        source="hub",
        dataset="allenai/tulu-v2-sft-mixture",
        revision="6248b175d2ccb5ec7c4aeb22e6d8ee3b21b2c752",
        split="train",
        num_prompts=55_000,
        shuffle_seed=42,
    ),
    engine="vllm",
    sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=256, add_bos=True),
    training_template="chat",
    tokenization="release",
    global_batch_size=16,
    max_length=4096,
    max_prompt_length=2048,
    iterations=(Iteration(beta=0.1, learning_rate=5e-7, schedule_epochs=5, stop_after_epochs=5, pairs_from=(0,)),),
    held_out=None,  # the mixture has no other split
    benchmarks=tuple(benchmark for benchmark in base.benchmarks if benchmark.name != "held_out"),
    claims=None,
    sizes=Sizes(num_parameters=6.9e10, prompt_tokens=250, real_tokens=350, generated_tokens=200),
    because={
        "sft_model": "scripts/tulu-70B: allenai/tulu-2-70b; a pinned commit of it",
        "prompts": "scripts/tulu-70B: allenai/tulu-v2-sft-mixture, 11 parts of 5000; a pinned commit of it",
        "engine": "scripts/tulu-70B/generate_vllm_batched.sh",
        "sampling": "batched_generate_vllm.py: temperature 1, top_p 1, 256 tokens, vLLM's own tokenization adds the BOS",
        "training_template": "run_spin.py applies the tokenizer's own chat template, and the Zephyr one where it has none",
        "tokenization": "as for the 7B model: an extra EOS after the template's own, interior EOS masked from attention",
        "global_batch_size": "finetune.sh: 2 a device on 8 devices (its README says 1)",
        "max_length": "configs/tulu-70B/config.yaml: 4096",
        "max_prompt_length": "configs/tulu-70B/config.yaml: 2048",
        "iterations": "finetune.sh: 5 epochs (config.yaml says 3); scripts for iteration 0 alone",
    },
)
