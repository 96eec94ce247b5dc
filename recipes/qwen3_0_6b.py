"""SPIN on a small model that people use today: Qwen3-0.6B against itself on UltraChat, its own chat template, modern tokenization.

The model was tuned on more and better data than UltraChat, so real responses need not be better than its own: whether SPIN helps is open.
Thinking is off: UltraChat's responses hold none. A plan: not run here. Learning rates are the paper's for 7B, not tuned for this size.
"""

from harness.recipe import Chat, ModelRef, PromptSource, Sampling, Sizes, load, replace

base = load("zephyr-7b")

recipe = replace(
    base,
    name="qwen3-0-6b",
    summary="a current small model: Qwen3-0.6B, 20k UltraChat prompts, 4 iterations, one 80 GB GPU",
    sft_model=ModelRef(source="hub", name="Qwen/Qwen3-0.6B", revision="c1899de289a04d12100db370d81485cdf75e47ca", dtype="bfloat16"),
    prompts=PromptSource(**{**base.prompts.model_dump(), "num_prompts": 20_000}),
    sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=512),
    generation_template="chat",
    training_template="chat",
    chat=Chat(template_args={"enable_thinking": False}),
    claims=None,
    sizes=Sizes(num_parameters=6.0e8, prompt_tokens=170, real_tokens=280, generated_tokens=350),
    because={
        "sft_model": "a current small open model; Apache-2.0, safetensors, not gated",
        "prompts.num_prompts": "enough for 312 steps an epoch; the paper's smallest subset has 14k",
        "prompts.revision": "the text names none; a pinned commit of ultrachat_200k",
        "sampling.temperature": "not stated; the policy's own distribution",
        "sampling.top_p": "not stated; the policy's own distribution",
        "sampling.max_new_tokens": "longer than the release's 256, so that length alone tells real from generated less often",
        "generation_template": "the model only knows its chat template",
        "training_template": "as in generation",
    },
)
