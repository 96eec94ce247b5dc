"""How fast responses come, and what our stage adds: the hf engine at several batch sizes, vLLM eager and compiled, raw `vllm.LLM`.

    python bench/generate.py CHECKPOINT PROMPTS.jsonl [--tokens 64] [--compiled] [--repeats 2] [--threads 2]

Run it with an interpreter that has vLLM (docs/vllm.md). PROMPTS.jsonl holds {"prompt": text} lines. Each contender runs in a process of
its own, greedy in fp32, and is timed without its start. `raw` and `stage` alternate on one `vllm.LLM`, whose prefix cache is emptied
before each: their ratio is what our stage costs. The last lines compare the tokens of vLLM with those of hf; where two responses part,
the gap is the difference of the two candidates' log-probabilities under the model itself. Quote ratios: a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from harness.contracts import Demonstration, Request, load
from harness.files import read_jsonl
from harness.machine import Machine
from harness.training.pairs import write_demonstrations

BATCHES = (16, 32, 64)
TIE = 1e-3


class Work(NamedTuple):
    """What each contender answers."""

    checkpoint: Path
    prompts: Path
    num_tokens: int
    repeats: int
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="also vLLM with torch.compile (minutes to start)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work = Work(arguments.checkpoint.resolve(), arguments.prompts.resolve(), arguments.tokens, arguments.repeats, arguments.threads)
    if arguments.one:
        print("\n" + json.dumps(run_one(arguments.one, work)))
        return
    names = [*(f"hf-{size}" for size in BATCHES), "vllm-eager", *(["vllm-compiled"] if arguments.compiled else [])]
    found = {name: in_process(name, sys.argv[1:]) for name in names}
    report(found, work)


def in_process(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The last line a contender's process prints."""
    done = subprocess.run([sys.executable, __file__, *arguments, "--one", name], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_one(name: str, work: Work) -> dict[str, Any]:
    """Seconds of each repeat by what was timed, and the token ids of the last."""
    kind, _, setting = name.partition("-")
    if kind == "hf":
        machine = machine_for(work, generate_batch=int(setting))
        engine = load("engines", "hf").open_engine(work.checkpoint, "float32", machine)
        return measure({"engine": lambda: engine.generate(requests(work))}, work.repeats)
    machine = machine_for(work, vllm={"enforce_eager": setting == "eager", "max_model_len": 2048}, generate_shard=10**6)
    engine = load("engines", "vllm").open_engine(work.checkpoint, "float32", machine)
    with tempfile.TemporaryDirectory() as folder:
        contenders = {"raw": partial(raw, engine, requests(work)), "stage": stage(engine, work, machine, Path(folder))}
        return measure(contenders, work.repeats, before=engine.llm.reset_prefix_cache)


def machine_for(work: Work, **values: Any) -> Machine:
    return Machine(
        name="bench", summary="", num_threads=work.threads, peak_tflops=1.0, generate_tokens_per_second=1.0, memory_gb=1.0, **values
    )


def requests(work: Work) -> list[Request]:
    """Greedy requests in the tokenizer's chat template."""
    from transformers import AutoTokenizer

    from harness.training.pairs import prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(work.checkpoint, local_files_only=True)
    asked = [[{"role": "user", "content": line["prompt"]}] for line in read_jsonl(work.prompts)]
    ids = [prompt_ids(tokenizer, "chat", messages, False) for messages in asked]
    return [Request(str(i), token_ids, work.num_tokens, 0.0, 1.0, i) for i, token_ids in enumerate(ids)]


def raw(engine: Any, asked: Sequence[Request]) -> list[Any]:
    """`vllm.LLM.generate` with the least that answers the requests."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=asked[0].max_new_tokens, temperature=0.0, stop_token_ids=list(engine.eos), detokenize=False)
    outputs = engine.llm.generate([{"prompt_token_ids": request.token_ids} for request in asked], params, use_tqdm=False)
    return [request._replace(token_ids=list(output.outputs[0].token_ids)) for request, output in zip(asked, outputs, strict=True)]


def stage(engine: Any, work: Work, machine: Machine, folder: Path) -> Callable[[], list[Any]]:
    """The whole stage on an engine that is open: index, requests, engine, text, shards, statistics."""
    from harness.stages import generate

    kept: list[Any] = []

    def answer(asked: Sequence[Request]) -> list[Any]:
        kept[:] = sorted(engine.generate(asked), key=lambda response: int(response.request_id))
        return kept

    class Opened:
        @staticmethod
        def open_engine(*_: Any) -> Any:
            return type("Recorder", (), {"generate": staticmethod(answer)})

    generate.load = lambda kind, name: Opened
    rows = [Demonstration(str(i), [{"role": "user", "content": line["prompt"]}], "") for i, line in enumerate(read_jsonl(work.prompts))]
    write_demonstrations(folder / "prompts.jsonl", rows)
    (folder / "checkpoint").symlink_to(work.checkpoint)
    sampling = {"temperature": 0.0, "max_new_tokens": work.num_tokens}
    spec = {"engine": "vllm", "sampling": sampling, "template": "chat", "dtype": "float32", "seed": 0}
    numbers = iter(range(10**6))

    def run() -> list[Any]:
        generate.run(spec, {"policy": folder, "prompts": folder}, folder / str(next(numbers)), machine)
        return list(kept)

    return run


def measure(contenders: dict[str, Callable[[], list[Any]]], repeats: int, before: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """Wall and processor seconds of each contender, in turn, `repeats` times."""
    found: dict[str, Any] = {name: {"seconds": [], "cpu_seconds": []} for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            before()
            began, cpu = time.monotonic(), time.process_time()
            responses = contender()
            found[name]["seconds"].append(round(time.monotonic() - began, 2))
            found[name]["cpu_seconds"].append(round(time.process_time() - cpu, 2))
            found[name]["token_ids"] = [response.token_ids for response in responses]
    return found


def report(found: dict[str, Any], work: Work) -> None:
    num_prompts = sum(1 for _ in read_jsonl(work.prompts))
    print(f"{num_prompts} prompts, {work.num_tokens} new tokens at most, greedy, fp32, {work.threads} threads; best of {work.repeats}")
    rates = {}
    for name, parts in found.items():
        for part, values in parts.items():
            num = sum(map(len, values["token_ids"]))
            rates[f"{name} {part}"] = num / min(values["seconds"])
            print(
                f"{name:15} {part:7} {num:7} tokens {min(values['seconds']):8.1f} s {rates[f'{name} {part}']:8.1f} tokens/s"
                f" {num / min(values['cpu_seconds']):8.1f} tokens/cpu-s   all: {values['seconds']}"
            )
    best = max(rate for name, rate in rates.items() if name.startswith("hf"))
    for name in (name for name in found if name.startswith("vllm")):
        overhead = min(found[name]["stage"]["seconds"]) / min(found[name]["raw"]["seconds"]) - 1
        print(f"{name}: the stage costs {100 * overhead:+.1f} % over raw; {rates[f'{name} stage'] / best:.2f} times the best hf batch size")
        agreement(found[f"hf-{BATCHES[0]}"]["engine"]["token_ids"], found[name]["stage"]["token_ids"], name, work)


def agreement(expected: Sequence[list[int]], ours: Sequence[list[int]], name: str, work: Work) -> None:
    """How many responses are equal, and the gap at each parting."""
    import torch
    from transformers import AutoModelForCausalLM

    from harness.lm.eos import eos_ids

    eos = eos_ids(work.checkpoint)[0]
    model = AutoModelForCausalLM.from_pretrained(work.checkpoint, dtype=torch.float32)
    gaps = []
    for request, left, right in zip(requests(work), expected, ours, strict=True):
        if left == right:
            continue
        ended = [*left, eos], [*right, eos]
        at = next(i for i, (a, b) in enumerate(zip(*ended, strict=False)) if a != b)
        with torch.inference_mode():
            logps = model(torch.tensor([[*request.token_ids, *left[:at]]])).logits[0, -1].log_softmax(-1)
        gaps.append(abs(float(logps[ended[0][at]] - logps[ended[1][at]])))
    equal = len(expected) - len(gaps)
    shown = ", ".join(f"{gap:.1e}" for gap in gaps) or "none"
    print(f"{name}: {equal} of {len(expected)} responses equal hf's; gaps where they part: {shown} (a tie is less than {TIE})")


if __name__ == "__main__":
    main()
