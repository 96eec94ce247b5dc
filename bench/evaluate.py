"""lm-eval's `hf` backend against ours: the same model, the same requests, in one run.

    python bench/evaluate.py CHECKPOINT                        8 questions a task, MMLU 20 in each of two subjects
    python bench/evaluate.py CHECKPOINT --tasks arc_challenge --questions 1 --batches 4

Each backend answers in a process of its own, so peak memory is its own; seconds are those of lm-eval's `evaluate`, without loading.
`hf` runs at the batch size of --batches that is fastest over the first --pilot questions (0: over all of them). The ratio of CPU
seconds, printed beside that of seconds, is the fairer one on a busy machine with --threads 1.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.recipe import Task

TASKS = {
    "arc_challenge": Task(name="arc_challenge", shots=25, metric="acc_norm"),
    "hellaswag": Task(name="hellaswag", shots=10, metric="acc_norm"),
    "truthfulqa_mc2": Task(name="truthfulqa_mc2", shots=0, metric="acc"),
    "winogrande": Task(name="winogrande", shots=5, metric="acc"),
    "mmlu": Task(name="mmlu", shots=5, metric="acc", subtasks=("mmlu_astronomy", "mmlu_virology")),
    "gsm8k": Task(name="gsm8k", shots=5, metric="exact_match"),
    "bbh_sports_understanding": Task(name="bbh_sports_understanding", shots=3, metric="exact_match"),
}
TARGETS = {"arc_challenge": 3.5, "hellaswag": 3.0, "truthfulqa_mc2": 4.0, "winogrande": 1.8, "mmlu": 3.0, "gsm8k": 1.0}
QUESTIONS, MMLU_QUESTIONS = 8, 20
TOLERANCE = 1e-3


def answer(backend: str, checkpoint: Path, task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """What one backend ('ours', or 'hf:BATCH') says, and what that took. Runs in the child."""
    import torch
    from lm_eval.models.huggingface import HFLM

    from harness.components.benchmarks import big_bench, open_llm
    from harness.evaluation import lm_eval_suite as lm_tasks
    from harness.evaluation.lm_eval_model import SharedPromptLM
    from harness.evaluation.lm_eval_tasks import load_definition, set_up

    if options.threads:
        torch.set_num_threads(options.threads)
    definition = {**open_llm.CURRENT, **big_bench.CURRENT}[task.name]
    subtasks = load_definition(task, definition)
    for subtask in subtasks.values():
        set_up(subtask, task, options.max_new_tokens)
    if backend == "ours":
        lm: HFLM = SharedPromptLM(checkpoint, options.precision, options.device, options.our_batch, seed=0)
    else:
        dtype = {"fp32": "float32", "bf16": "bfloat16"}[options.precision]
        batch = int(backend.split(":")[1])
        lm = HFLM(pretrained=str(checkpoint), dtype=dtype, device=options.device, batch_size=batch, add_bos_token=False)
    loaded = peak_mb(options.device)
    began, began_cpu = time.perf_counter(), time.process_time()
    samples = lm_tasks.ask(lm, subtasks, task.limit, chat=False)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "loaded_mb": loaded,
        "peak_mb": peak_mb(options.device),
        "answers": [s["resps"] for found in samples.values() for s in found if s["filter"] == definition.filter],
        "metrics": [{m: s[m] for m in s["metrics"]} for found in samples.values() for s in found],
    }


def peak_mb(device: str) -> float:
    """The most memory this process has held: on the GPU where it uses one."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def in_a_child(backend: str, task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """`answer` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answer.json"
        command = [sys.executable, __file__, *sys.argv[1:], "--child", backend, task.model_dump_json(), str(out)]
        subprocess.run(command, check=True, stderr=None if options.verbose else subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def compare(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    pilot = task.model_copy(update={"limit": options.pilot or task.limit})
    theirs = {batch: in_a_child(f"hf:{batch}", pilot, options) for batch in options.batches}
    best = min(theirs, key=lambda batch: theirs[batch]["seconds"])
    hf, ours = in_a_child(f"hf:{best}", task, options) if options.pilot else theirs[best], in_a_child("ours", task, options)
    pairs = [(a, b) for some, others in zip(hf["answers"], ours["answers"], strict=True) for (a,), (b,) in zip(some, others, strict=True)]
    scored = [abs(a[0] - b[0]) for a, b in pairs if not isinstance(a, str)]
    return {
        "task": task.name,
        "questions": len(hf["metrics"]),
        "hf_batch": best,
        "hf_tried": {batch: round(found["seconds"], 1) for batch, found in theirs.items()},
        "hf_seconds": round(hf["seconds"], 1),
        "our_seconds": round(ours["seconds"], 1),
        "ratio": round(hf["seconds"] / ours["seconds"], 2),
        "cpu_ratio": round(hf["cpu_seconds"] / ours["cpu_seconds"], 2),
        "target": TARGETS.get(task.name),
        "logp_difference": max(scored, default=None),
        "answers_equal": sum(a == b for a, b in pairs if isinstance(a, str)) if not scored else sum(a[1] == b[1] for a, b in pairs),
        "answers": len(pairs),
        "metrics_equal": hf["metrics"] == ours["metrics"] if task.name != "truthfulqa_mc2" else close(hf["metrics"], ours["metrics"]),
        "hf_peak_mb": round(hf["peak_mb"]),
        "our_peak_mb": round(ours["peak_mb"]),
    }


def close(left: list[dict[str, float]], right: list[dict[str, float]]) -> bool:
    """Metrics that are sums of probabilities, equal as far as the log-probabilities are."""
    return all(abs(a[m] - b[m]) < TOLERANCE for a, b in zip(left, right, strict=True) for m in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--questions", type=int, help=f"a task (default {QUESTIONS}; MMLU {MMLU_QUESTIONS} a subject)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8], help="batch sizes hf is tried at")
    parser.add_argument("--pilot", type=int, default=2, help="questions of a task (of each subject) over which hf's batch size is chosen")
    parser.add_argument("--our-batch", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=None)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--verbose", action="store_true", help="let the children speak")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        backend, task, out = options.child
        Path(out).write_text(json.dumps(answer(backend, options.checkpoint, Task.model_validate_json(task), options)))
        return
    for name in options.tasks:
        default = MMLU_QUESTIONS if name == "mmlu" else QUESTIONS
        print(json.dumps(compare(TASKS[name].model_copy(update={"limit": options.questions or default}), options)), flush=True)


if __name__ == "__main__":
    main()
