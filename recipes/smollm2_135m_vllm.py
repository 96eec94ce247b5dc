"""`smollm2-135m` with its responses drawn by vLLM: the same experiment through the other engine, on two CPU cores.

vLLM and training need different releases of transformers, so the machine file names the interpreter of each: `--machine cpu-vllm`.
"""

from harness.recipe import load, replace

recipe = replace(
    load("smollm2-135m"),
    name="smollm2-135m-vllm",
    summary="smollm2-135m with vLLM as its engine (--machine cpu-vllm; docs/vllm.md)",
    engine="vllm",
    because={"engine": "not stated; the engine one would use for 50k prompts, on a model small enough to compare it with the other"},
)
