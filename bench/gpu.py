"""The paths that only a GPU takes, at the shapes of a 7B model with random weights, each figure beside the one we expect.

    python -m bench.gpu [--out bench/gpu.json] [--only CHECK ...] [--minutes 20] [--tiny]

For one card of 80 GB; needs no network, model or data, and the extra `lora`. Each check is a process of its own, so one that fails leaves
the others: training under `zephyr-7b-lora`, which is one process with all weights, and under FSDP2 as the launcher starts it. A figure
out of the range of bench/gpu_expected.py is marked, and the exit code is 1. `--tiny` runs the same code with small shapes, on any computer.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedModel

from bench import gpu_workload as workload
from bench.gpu_expected import is_expected, line
from bench.gpu_workload import Scale
from harness.components.engines import hf
from harness.lm import decoding
from harness.lm.group_logps import group_logps
from harness.lm.prefix_forward import PrefixForward
from harness.lm.prefix_tree import layout
from harness.stages import train as stage
from harness.training.checkpoints import load_state, save_state
from harness.training.step_costs import forward_flops, measure, peak_memory_gb

Figures = dict[str, float]


def build(scale: Scale, dtype: torch.dtype, layers: int | None = None, shape: Mapping[str, int] | None = None) -> PreTrainedModel:
    """Random weights, made where they are used; at full scale of so many `layers`, or of another `shape`."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    full = {**(shape or scale.shape), **({"num_hidden_layers": layers} if layers else {})}
    config = MistralConfig(**(scale.shape if scale.tiny else full))
    with torch.device(workload.DEVICE):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    return model.eval()  # type: ignore[no-any-return]


def seconds_of(work: Callable[[], Any], repeats: int = 3) -> float:
    """Of one call, after a first one that compiles and fills caches."""
    work()
    began = _now()
    for _ in range(repeats):
        work()
    return (_now() - began) / repeats


def _now() -> float:
    if workload.DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def parity(scale: Scale) -> Figures:
    """The packed groups' attention against padded rows through written-out attention, in fp32, four layers."""
    model, groups = build(scale, torch.float32, 4), workload.groups(scale, 6)

    def scored() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        logps = group_logps(model, groups)
        logps.mean().backward()
        return logps.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    packed, gradient = scored()
    model.set_attn_implementation("eager")
    padded, other = scored()
    return {
        "log-probability, packed less padded": float((packed - padded).abs().max()),
        "gradient, packed less padded": float((gradient - other).norm() / other.norm()),
    }


def noise(scale: Scale) -> Figures:
    """What packing changes in bf16: the margins of groups scored 16 at a time and one by one."""
    model, groups = build(scale, torch.bfloat16), workload.groups(scale, scale.num(64))
    with torch.no_grad():
        alone, together = (
            torch.cat([group_logps(model, groups[i : i + size]) for i in range(0, len(groups), size)]).double() for size in (1, 16)
        )
    change = (together - alone)[:, 0] - (together - alone)[:, 1]
    return {"margin, 16 groups together less each alone: sd": float(change.std()), "the same: mean": float(change.mean())}


def steps(scale: Scale, sharding: str, layers: int | None) -> tuple[stage.Training, Figures]:
    """The opponent's pass, then four optimizer steps, by the training stage's own functions; the first of each compiles."""
    with tempfile.TemporaryDirectory() as folder:
        training = workload.training(scale, sharding, lambda: build(scale, torch.float32, layers), Path(folder))
        flops = forward_flops(training.sizes, [*training.batches.groups()])
        stage._opponent(training, Path(folder) / "first", "bench", lambda: False)
        began = _now()
        values = stage._opponent(training, Path(folder), "bench", lambda: False)
        scored = flops / (_now() - began) / (training.machine.peak_tflops * 1e12)
        lines = [stage._step(training, values, number) for number in range(4)]
    rest = lines[1:]
    share = sum(line["mfu"] for line in rest) / len(rest)
    figures = {"opponent's pass": scored, "first loss": lines[0]["loss"], "share": share, "peak memory": lines[-1]["peak_memory_gb"]}
    return training, figures


def adapters(scale: Scale) -> Figures:
    """Training steps of zephyr-7b-lora as it is."""
    return steps(scale, "none", None)[1]


def fsdp2(scale: Scale) -> Figures:
    """Training steps of all weights under FSDP2, half of the layers so that one card holds them; then the optimizer alone."""
    training, figures = steps(scale, "fsdp2", 16)
    scorer, optimizer = training.scorer, training.optimizer
    for weight in scorer.parameters():
        weight.grad = torch.full_like(weight, 1e-4)
    norm = seconds_of(lambda: float(training.accelerator.clip_grad_norm_(scorer.parameters(), 1.0)))
    return {**figures, "norm of the gradient": 1e3 * norm, "RMSProp's step": 1e3 * seconds_of(optimizer.step)}


def state(scale: Scale) -> Figures:
    """A state saved and read, eight layers under FSDP2."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        training = workload.training(scale, "fsdp2", lambda: build(scale, torch.float32, 8), out)
        values = stage._opponent(training, out, "bench", lambda: False)
        for number in range(2):
            stage._step(training, values, number)
        began = _now()
        save_state(training.accelerator, out, "bench", 2)
        saved = _now()
        done = load_state(training.accelerator, out, "bench")
        loaded = _now()
        size = sum(path.stat().st_size for path in (out / "state").rglob("*") if path.is_file())
    num = sum(weight.numel() for weight in training.scorer.parameters())
    written, read = size / 1e9 / (saved - began), size / 1e9 / (loaded - saved)
    return {"size": size / num, "written": written, "read": read, "steps after loading": done}


def generate(scale: Scale) -> Figures:
    """The hf engine, with batches as the machine's memory cuts them."""
    machine, model = workload.machine(scale, "none"), build(scale, torch.bfloat16)
    engine = hf.Engine(model, (), machine.generate_batch, hf.batch_tokens(model, machine))
    new = scale.num(128)
    figures = {}
    for size in (128, 64):
        asked = workload.requests(scale, size, 170, new)
        figures[f"{size} prompts of 170 tokens"] = len(asked) * new / seconds_of(lambda asked=asked: engine.generate(asked), 1)  # type: ignore[misc]
    engine.generate(workload.requests(scale, 128, 3500, new))
    return {**figures, "128 prompts of 3500 tokens: peak memory": peak_memory_gb(machine)}


def evaluate(scale: Scale) -> Figures:
    """Multiple choice and answers through the prefix tree, as lm-eval's tasks are answered here."""
    machine, model = workload.machine(scale, "none"), build(scale, torch.bfloat16)
    forward, asked, new = PrefixForward(model), workload.questions(scale, 32), scale.num(64)
    endings = workload.endings(asked)
    rows = layout(endings, workload.ROW_TOKENS)
    scoring = seconds_of(lambda: [forward.score(row, endings) for row in rows])
    prompts = workload.prompts(scale, 64, 1100)
    rows = layout(prompts, workload.ROW_TOKENS)
    decode = seconds_of(lambda: decoding.decode(forward, rows, new, decoding.greedy, lambda said: False), 1)
    return {
        "scoring, four endings a question": forward_flops(measure(model), asked) / scoring / (machine.peak_tflops * 1e12),
        "decoding 64 prompts of 1100 tokens": len(prompts) * new / decode,
    }


def small(scale: Scale) -> Figures:
    """The same multiple choice with 1.3e8 weights, whose forward passes are shorter than what starts them: prompts that share rows."""
    forward, asked = PrefixForward(build(scale, torch.bfloat16, shape=workload.SMOLLM2_135M)), workload.questions(scale, 64)
    endings = workload.endings(asked)
    together, apart = (
        seconds_of(lambda rows=rows: [forward.score(row, endings) for row in rows])  # type: ignore[misc]
        for rows in (layout(endings, workload.ROW_TOKENS, workload.ROW_TOKENS), layout(endings, workload.ROW_TOKENS))
    )
    return {"questions that share rows": len(asked) / together, "over a trunk for each question": apart / together}


CHECKS: dict[str, Callable[[Scale], Figures]] = {
    "parity": parity, "noise": noise, "adapters": adapters, "fsdp2": fsdp2, "state": state, "generate": generate,
    "evaluate": evaluate, "small": small,
}  # fmt: skip


def in_a_child(check: str, scale: Scale, seconds: float) -> Figures:
    """A check in a process of its own, on GPUs under the launcher where it shards; `RuntimeError` with its last line where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "figures.json"
        launcher = ["-m", "harness.training.launch", "--standalone", "--nproc-per-node=1"]
        shards = check in ("fsdp2", "state") and workload.DEVICE == "cuda"
        command = [sys.executable, *(launcher if shards else []), "-m", "bench.gpu", "--one", check, "--out", str(into)]
        process = subprocess.Popen([*command, *["--tiny"] * scale.tiny], stderr=subprocess.PIPE, text=True)
        try:
            _, said = process.communicate(timeout=max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            process.terminate()  # the launcher ends its ranks
            process.communicate()
            raise RuntimeError(f"was not done in the {seconds:.0f} s that were left") from None
        if process.returncode:
            raise RuntimeError(last_error(said) or f"ended with code {process.returncode}")
        return json.loads(into.read_text())  # type: ignore[no-any-return]


def last_error(said: str) -> str:
    """The last line that names an error, as Python ends a traceback; the launcher says more after it. The last line where there is none."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\[\w+\]: ?)?[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or [""])[-1]


def run(checks: Sequence[str], scale: Scale, minutes: float, out: Path) -> dict[str, Any]:
    """Every check, printed and written to `out` as it is done: the figures, and why those that failed did."""
    began = time.monotonic()
    found: dict[str, Any] = {**provenance(scale), "minutes": 0.0, "figures": {}, "out_of_range": [], "failures": {}}
    for check in checks:
        try:
            figures = in_a_child(check, scale, 60 * minutes - (time.monotonic() - began))
        except RuntimeError as error:
            found["failures"][check] = str(error)
            print(f"{check}: failed: {error}", flush=True)
        else:
            found["figures"][check] = figures
            found["out_of_range"] += [f"{check}: {figure}" for figure, value in figures.items() if not is_expected(check, figure, value)]
            print("\n".join(line(check, figure, value) for figure, value in figures.items()), flush=True)
        found["minutes"] = (time.monotonic() - began) / 60
        out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def provenance(scale: Scale) -> dict[str, Any]:
    """Card, versions and commit."""
    card = torch.cuda.get_device_name() if workload.DEVICE == "cuda" else "no GPU"
    commit = subprocess.run(["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "accelerate", "peft")}
    return {"card": card, "tiny": scale.tiny, "packages": packages, "commit": commit}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gpu.json")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=[*CHECKS], metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--minutes", type=float, default=20.0, help="what is not done by then is left out, and said to be")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", choices=CHECKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    scale = Scale(options.tiny)
    if workload.DEVICE == "cpu" and not scale.tiny:
        parser.error("there is no GPU here; --tiny runs the same code with small shapes")
    if options.one:
        options.out.write_text(json.dumps(CHECKS[options.one](scale)))
        return 0
    found = run(options.only, scale, options.minutes, options.out)
    return 1 if found["failures"] or (found["out_of_range"] and not scale.tiny) else 0


if __name__ == "__main__":
    sys.exit(main())
