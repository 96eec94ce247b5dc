"""`tiny` with the benchmark of held-out prompts, on a source whose entropy is known: the real responses' log-likelihood less the entropy is
`kl`. Everything else is `tiny`, stage for stage."""

from harness.recipe import Benchmark, PromptSource, Task, load, replace

base = load("tiny")

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

recipe = replace(
    base,
    name="tiny-held-out",
    summary="tiny, and on prompts nobody trained on: likelihood of the real responses, margin and accuracy against the opponent's",
    held_out=PromptSource(source="procedural", dataset="procedural", split="validation", num_prompts=600, shuffle_seed=0),
    benchmarks=(*base.benchmarks, HELD_OUT),
)
