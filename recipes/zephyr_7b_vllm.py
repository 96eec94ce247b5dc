"""What one would run today: responses sampled by vLLM at temperature 1, one chat template everywhere, one EOS.

The released `generate_vllm.py` samples at T=1 and top_p=1 too, but after a BOS (vLLM adds one to prompts that are text), which the release
then trains without, and with '### Instruction' prompts. Here no prompt has a BOS, in sampling, training or evaluation.
The vLLM engine is another experiment than `zephyr-7b`: `harness diff zephyr-7b zephyr-7b-vllm` shows each field.
"""

from harness.recipe import load, replace

recipe = replace(
    load("zephyr-7b"),
    name="zephyr-7b-vllm",
    summary="what one would run today: vLLM at T=1, the chat template in generation and training",
    engine="vllm",
    generation_template="chat",
    training_template="chat",
    because={
        "engine": "the text names none; vLLM answers 50k prompts in a fraction of the time of HF generate",
        "generation_template": "the format the SFT checkpoint was trained on; '### Instruction' is foreign to it (issues 9, 33)",
        "training_template": "the same as in generation: pairs are scored as they were sampled",
        "tokenization": "not stated; one EOS after a finished response, none after one cut by length",
    },
)
