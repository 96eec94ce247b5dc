"""What one would run today: responses sampled by vLLM at temperature 1 with BOS, one chat template everywhere, one EOS.

The released `generate_vllm.py` samples so too (T=1, top_p=1, BOS from vLLM's string prompts) but with '### Instruction' prompts.
The vLLM engine is another experiment than `zephyr-7b`: `harness diff zephyr-7b zephyr-7b-vllm` shows each field.
"""

from harness.recipe import Sampling, load, replace

recipe = replace(
    load("zephyr-7b"),
    name="zephyr-7b-vllm",
    summary="what one would run today: vLLM at T=1 with BOS, the chat template in generation and training",
    engine="vllm",
    sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=256, add_bos=True),
    generation_template="chat",
    training_template="chat",
    because={
        "engine": "the text names none; vLLM answers 50k prompts in a fraction of the time of HF generate",
        "sampling": "not stated; T=1, top_p=1, 256 tokens and a BOS in front, which is what generate_vllm.py gives vLLM",
        "generation_template": "the format the SFT checkpoint was trained on; '### Instruction' is foreign to it (issues 9, 33)",
        "training_template": "the same as in generation: pairs are scored as they were sampled",
        "tokenization": "not stated; one EOS after a finished response, none after one cut by length",
    },
)
