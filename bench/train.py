"""Training beside its peers: `python -m bench.train --model DIR` measures each in a process of its own and prints one table.

    python -m bench.train --model DIR                       the issue's setting: 16 prompts, batch 4, 512 tokens, 2 epochs, fp32
    python -m bench.train --model DIR --prompts 4 --epochs 1 --peers released ours
    python -m bench.train --model DIR --scaling             seconds of a step at 128, 256, 512 and 1024 tokens

`peers.py` says what each peer is, `workload.py` what it trains on. Losses of the first epoch and the first step's gradient must agree
with the released computation's. Utilisation counts useful tokens (harness/training/step_costs.py: a shared prompt once, no padding, nothing
recomputed; the opponent once) against a matrix product measured around the peer's own run. Wall-clock on a shared box is noisy: the
CPU seconds stand beside it. The pairs come through `datasets`; offline, set HF_HUB_OFFLINE and HF_DATASETS_CACHE.
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

import torch

from bench.workload import Size, batches, write_inputs
from harness.lm.group_logps import Group, group_logps
from harness.training.step_costs import forward_flops, measure, step_flops

PEERS = ("released", "trl", "trl-best", "ours", "released-carried", "ours-carried")
BASELINE = {"ours-carried": "released-carried", "released-carried": "released-carried"}
LENGTHS = (128, 256, 512, 1024)
GEMM = 2048


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    size = Size(options.prompts, options.batch, options.max_length, options.epochs, options.threads, options.micro_batch)
    if options.scaling:
        print(_scaling(options.model))
    elif options.peer:
        _measure(options.peer, Path(options.folder), size)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(options.model, size, Path(folder))
            found = {peer: _launch(peer, folder) for peer in options.peers}
        print(_table(found, size))
        if options.out:
            options.out.write_text(json.dumps({"size": size._asdict(), "peers": found}, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint directory")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=1, help="ours: pairs of one forward pass, a matter of memory")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _launch(peer: str, folder: str) -> dict[str, Any]:
    print(f"{peer} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "bench.train", *sys.argv[1:], "--peer", peer, "--folder", folder]
    subprocess.run(command, check=True, stdout=sys.stderr)
    found: dict[str, Any] = json.loads((Path(folder) / f"{peer}.json").read_text())
    found["gradient_error"] = _gradient_error(peer, Path(folder))
    return found


def _gradient_error(peer: str, folder: Path) -> float | None:
    """||ours - baseline|| / ||baseline|| of the first step's gradient; None where another number of pairs makes the step."""
    baseline = folder / f"{BASELINE.get(peer, 'released')}.pt"
    if peer == "ours-carried" or not baseline.exists():
        return None
    own, reference = torch.load(folder / f"{peer}.pt"), torch.load(baseline)
    return float((own - reference).norm() / reference.norm())


def _measure(peer: str, folder: Path, size: Size) -> None:
    """In the peer's own process: run it between two measurements of the matrix product."""
    from bench.peers import PEERS as RUNS

    inputs = {role: folder / role for role in ("policy", "prompts", "responses0", "responses1")}
    before = _gemm_flops()
    outcome = RUNS[peer](inputs, size)
    after = _gemm_flops()
    peak, peak_by_cpu = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    carried = peer.endswith("carried")
    made = batches(inputs, size, "groups" if carried else "pairs", 2 if carried else 1)
    groups = list(made.groups())
    flops = _useful_flops(inputs["policy"] / "checkpoint", groups, size.epochs)
    tokens = sum(len(g.prompt) + sum(map(len, g.branches)) for g in groups)
    torch.save(outcome.gradient, folder / f"{peer}.pt")
    record = {
        "opponent_seconds": outcome.opponent,
        "epoch_seconds": sum(outcome.steps) / size.epochs,
        "seconds": outcome.opponent + sum(outcome.steps),
        "cpu_seconds": outcome.cpu,
        "useful_tokens_per_second": tokens * size.epochs / (outcome.opponent + sum(outcome.steps)),
        "gemm_gflops": peak / 1e9,
        "utilisation": flops / (outcome.opponent + sum(outcome.steps)) / peak,
        "cpu_utilisation": flops / outcome.cpu / peak_by_cpu,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "losses": outcome.losses,
    }
    (folder / f"{peer}.json").write_text(json.dumps(record))


def _useful_flops(checkpoint: Path, groups: list[Group], epochs: int) -> float:
    from transformers import AutoModelForCausalLM

    sizes = measure(AutoModelForCausalLM.from_pretrained(checkpoint))
    return epochs * step_flops(sizes, groups, adapters=False) + forward_flops(sizes, groups)


def _gemm_flops() -> tuple[float, float]:
    """Of fp32 matrix products: a second of the fastest of five, and a CPU second of all of them."""
    left, right = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
    left @ right
    seconds, cpu = [], time.process_time()
    for _ in range(5):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * GEMM**3 / min(seconds), 5 * 2 * GEMM**3 / (time.process_time() - cpu)


def _table(found: dict[str, dict[str, Any]], size: Size) -> str:
    all_epochs = f"{size.epochs} epochs s"
    costs = ("epoch s", all_epochs, "CPU s", "tokens/s", "of GEMM", "by CPU", "peak GB")
    header = ("peer", *costs, "x faster", "x by CPU", "loss diff", "grad diff")
    lines = [header, ("---",) * len(header)]
    for peer, values in found.items():
        base = found.get(BASELINE.get(peer, "released"))
        lines.append(
            (
                peer,
                f"{values['epoch_seconds']:.1f}",
                f"{values['seconds']:.1f}",
                f"{values['cpu_seconds']:.1f}",
                f"{values['useful_tokens_per_second']:.1f}",
                f"{values['utilisation']:.0%} of {values['gemm_gflops']:.0f}",
                f"{values['cpu_utilisation']:.0%}",
                f"{values['peak_memory_gb']:.2f}",
                f"{base['seconds'] / values['seconds']:.2f}" if base else "",
                f"{base['cpu_seconds'] / values['cpu_seconds']:.2f}" if base else "",
                _loss_difference(peer, values, base, size),
                "" if values["gradient_error"] is None else f"{values['gradient_error']:.1e}",
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _loss_difference(peer: str, values: dict[str, Any], base: dict[str, Any] | None, size: Size) -> str:
    """The largest of the first epoch; groups take their pairs in another order, so there only the first step's mean is near."""
    if base is None or peer.endswith("carried"):
        return ""
    per_epoch = len(values["losses"]) // size.epochs
    pairs = zip(values["losses"][:per_epoch], base["losses"][:per_epoch], strict=True)
    return f"{max(abs(own - other) for own, other in pairs):.1e}"


def _scaling(model_dir: Path) -> str:
    """Forward and backward of one group whose prompt is a quarter and whose two responses share the rest."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    lines = ["| tokens | seconds | CPU ms a token | of GEMM by CPU |", "|---|---|---|---|"]
    for length in LENGTHS:
        prompt, branch = length // 4, length * 3 // 8
        group = Group(list(range(100, 100 + prompt)), [list(range(300, 300 + branch)), list(range(900, 900 + branch))])
        times, cpu = [], []
        for _ in range(3):
            began, used = time.perf_counter(), time.process_time()
            group_logps(model, [group]).sum().backward()
            times.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
            model.zero_grad()
        share = step_flops(measure(model), [group], adapters=False) / min(cpu) / _gemm_flops()[1]
        lines.append(f"| {length} | {min(times):.2f} | {1000 * min(cpu) / length:.2f} | {share:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
