"""`tiny` with the benchmark of held-out prompts, on a source whose entropy is known: the real responses' log-likelihood less the entropy is
`kl`. Everything else is `tiny`, stage for stage."""

from harness.recipe import PromptSource, load, replace

base = load("tiny")
held_out = next(benchmark for benchmark in load("zephyr-7b").benchmarks if benchmark.name == "held_out")

recipe = replace(
    base,
    name="tiny-held-out",
    summary="tiny, and on prompts nobody trained on: likelihood of the real responses, margin and accuracy against the opponent's",
    held_out=PromptSource(source="procedural", dataset="procedural", split="validation", num_prompts=600, shuffle_seed=0),
    benchmarks=(*base.benchmarks, held_out),
)
