"""The smoke test's recipe with all that a kill can hit: pretraining and fine-tuning before it, a control, a judge."""

from pathlib import Path

from harness.recipe import Benchmark, Finetuning, Judge, Optimizer, PromptSource, Task, load, replace

small = load(str(Path(__file__).parent.parent / "smoke/small.py"))
tuning = Finetuning(learning_rate=1e-3, num_epochs=2, global_batch_size=16, optimizer=Optimizer(name="adamw"))
text = PromptSource(source="procedural", dataset="procedural", split="pretrain", num_prompts=480, shuffle_seed=100)

recipe = replace(
    small,
    name="whole",
    summary="the damage tests': every kind of stage, several at once",
    pretraining=tuning.model_copy(update={"prompts": text}),
    sft=tuning,
    controls={"control": tuning.model_copy(update={"num_epochs": None})},
    benchmarks=(
        *small.benchmarks,
        Benchmark(
            name="mt_bench",
            protocol="judged",
            tasks=(Task(name="tiny_mt_bench", metric="points of 10", limit=6),),
            judge=Judge(model="scripted-judge"),
            max_new_tokens=12,
        ),
    ),
)
