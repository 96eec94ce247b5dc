"""`small` with every kind of stage and benchmark that needs no download: preference data, held-out prompts, a task of the user's own,
a judge behind an endpoint and another one that grades the same answers."""

from pathlib import Path

from harness.recipe import Benchmark, Judge, Optimizer, PairTraining, PromptSource, Task, load, replace

small = load(str(Path(__file__).parent / "small.py"))
held_out = next(benchmark for benchmark in load("zephyr-7b").benchmarks if benchmark.name == "held_out")
text = PromptSource(source="procedural", dataset="procedural", split="validation", num_prompts=32, shuffle_seed=0)
answers = Benchmark(
    name="mt_bench",
    protocol="judged",
    tasks=(Task(name="tiny_mt_bench", metric="points of 10", limit=6),),
    judge=Judge(model="scripted-judge"),
    max_new_tokens=12,
)

recipe = replace(
    small,
    name="every-kind",
    prompts=small.prompts.model_copy(update={"num_prompts": 96}),
    held_out=text,
    iterations=small.iterations[:1],
    rivals={
        "dpo": PairTraining(
            prompts=small.prompts.model_copy(update={"num_prompts": 96}),
            beta=0.1,
            learning_rate=1e-3,
            num_epochs=1,
            global_batch_size=16,
            optimizer=Optimizer(),
        )
    },
    benchmarks=(
        *small.benchmarks,
        Benchmark(name="open_llm", protocol="current", tasks=(Task(name="tiny_pick_choice", shots=0, metric="acc", limit=40),)),
        Benchmark(name="big_bench", protocol="current", tasks=(Task(name="tiny_mixed_sample", shots=0, metric="valid", limit=40),)),
        Benchmark(name="lm_eval", protocol="own", tasks=(Task(name="own_choice"),), task_folder=str(Path(__file__).parent / "own_task")),
        held_out,
        answers,
        Benchmark(
            name="mt_bench",
            protocol="judged again",
            tasks=answers.tasks,
            judge=Judge(name="mt_bench_strict", model="scripted-judge"),
            answers_from="judged",
        ),
    ),
)
