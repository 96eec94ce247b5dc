"""What training leaves on disk: the state a killed run continues from, and the finished checkpoint; each complete or absent.

state/step-00000120/   accelerate's state (weights, optimizer, schedule) after 120 steps, and progress.json; where the processes shard
                       the weights each writes its own part, which any number of such processes can read
checkpoint/            the trained policy
weights.json           how many of its weights differ from those it began with, in bf16
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn

from harness.artifact import LOG_FILE
from harness.config import InnerPath, Strict
from harness.contracts.run_files import names_below
from harness.errors import InputError, MachineError, first_line
from harness.files import Output, dump, hash_file, naming_full_disk, write_atomic
from harness.recipe import Lora
from harness.training.policy import merged

CONFIG = "config.json"
WRITTEN = (CONFIG, "generation_config.json")
"""Of a checkpoint's files those that saving a model writes, weights aside; the others are the policy's own."""
PROGRESS_FILE = "progress.json"
WEIGHTS_FILE = "weights.json"
FEW_CHANGED = 0.01
"""Below this share of weights that changed in bf16 the end of training says so."""


def save_state(accelerator: Accelerator, out: Path, identity: str, step: int) -> None:
    """Save the state after `step` steps beside the earlier one, then drop that one: at any moment one is complete."""
    folder = out / "state"
    beside = folder / "saving.tmp"
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
    accelerator.wait_for_everyone()
    with naming_full_disk(folder):
        accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_atomic(beside / LOG_FILE, (out / LOG_FILE).read_bytes() if (out / LOG_FILE).exists() else b"")
    files = _hashed(accelerator, beside)
    if accelerator.is_main_process:
        progress = Progress(identity=identity, step=step, sharded=_is_sharded(accelerator), files=files)
        write_atomic(beside / PROGRESS_FILE, dump(progress))
        _flush(beside)
        earlier = _complete(folder)
        beside.rename(folder / _name_of(step))
        for path in earlier:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def load_state(accelerator: Accelerator, out: Path, identity: str) -> int:
    """Continue from the last complete state of the same inputs: the number of steps done, 0 for none. `log.jsonl` is what it was then.

    Raises `InputError` where a byte of the state is not what was saved: what is wrong in it would be wrong in the result, and unseen.
    """
    step, log = 0, b""
    found = _progress(out, identity)
    if found:
        _check_kind(accelerator, found)
        path = _complete(out / "state")[-1]
        _check_bytes(accelerator, found, path)
        try:
            accelerator.load_state(str(path))
        except Exception as error:  # a cut file is told by torch, safetensors or json, each in its own way
            raise _damaged(path, error) from None
        log = (path / LOG_FILE).read_bytes()
        accelerator.step = 0  # accumulated micro-batches: their number may be another than in the launch that saved
        step = found.step
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with naming_full_disk(out / LOG_FILE):
            (out / LOG_FILE).write_bytes(log)  # it will grow by lines; cut by a kill it is brought back the same way
        if step == 0:
            shutil.rmtree(out / "state", ignore_errors=True)
    accelerator.wait_for_everyone()
    return step


def has_state(out: Path, identity: str) -> bool:
    """Whether an earlier launch with the same inputs has saved a state."""
    return _progress(out, identity) is not None


class Progress(Strict):
    """`progress.json`: of which inputs a state is, after how many steps, whether its weights are in shards, and the files beside it."""

    identity: str
    step: int = Field(ge=0)
    sharded: bool
    files: dict[InnerPath, Output]


def _progress(out: Path, identity: str) -> Progress | None:
    """What the last complete state says of itself, if it is one of these inputs."""
    for path in _complete(out / "state")[-1:]:
        try:
            found = Progress.model_validate_json((path / PROGRESS_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None
        return found if found.identity == identity else None
    return None


def _hashed(accelerator: Accelerator, folder: Path) -> dict[str, Output]:
    """{name: hash} of the files of a state, each read by one of the processes."""
    (names,) = broadcast_object_list([sorted(names_below(folder))])
    return dict(gather_object([(name, hash_file(folder / name)) for name in _share(accelerator, names)]))


def _check_bytes(accelerator: Accelerator, found: Progress, path: Path) -> None:
    wrong = [] if path.name == _name_of(found.step) else [f"{PROGRESS_FILE} is of step {found.step}"]
    for name in _share(accelerator, sorted(found.files)):
        if not (path / name).is_file() or hash_file(path / name) != found.files[name]:
            wrong.append(f"{name} is not what was saved")
    wrong = gather_object(wrong)
    if wrong:
        raise _damaged(path, InputError(wrong[0]))


def _share(accelerator: Accelerator, names: Sequence[str]) -> Sequence[str]:
    return names[accelerator.process_index :: accelerator.num_processes]


def _is_sharded(accelerator: Accelerator) -> bool:
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def _check_kind(accelerator: Accelerator, found: Progress) -> None:
    kinds = {True: "processes that shard the weights", False: "processes that hold all weights each"}
    if found.sharded != _is_sharded(accelerator):
        raise MachineError(
            f"the state of step {found.step} was saved by {kinds[found.sharded]}, these are {kinds[not found.sharded]}; continue it on a "
            "machine of the first kind, or remove state/ in the stage's directory to begin at step 0"
        )


def save_checkpoint(accelerator: Accelerator, scorer: nn.Module, source: Path, out: Path, *, lora: Lora | None, precision: str) -> None:
    """`checkpoint/`: the weights of `scorer`'s model, adapters added in, and from `source` whatever else lies there (the tokenizer)."""
    weights = accelerator.get_state_dict(scorer)
    if accelerator.is_main_process:
        beside = out / "checkpoint.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        with naming_full_disk(out / "checkpoint"):
            model: Any = accelerator.unwrap_model(scorer).model
            own = {name.removeprefix("model."): value for name, value in weights.items()}
            model.save_pretrained(beside, state_dict=merged(_each_once(model, own), lora))
            for path in sorted(source.iterdir()):
                if path.is_file() and not _is_of_weights(path) and not (beside / path.name).exists():
                    shutil.copyfile(path, beside / path.name)
            _flush(beside)
        share = changed_share(source, beside)
        write_atomic(out / WEIGHTS_FILE, (json.dumps({"bf16_changed": round(share, 6)}) + "\n").encode())
        accelerator.log({"bf16_changed": share})
        print(_told(share, precision), file=sys.stderr, flush=True)
        beside.rename(out / "checkpoint")
    accelerator.wait_for_everyone()


def refuse_damaged(out: Path, source: Path) -> None:
    """Raise `InputError` unless the `checkpoint/` an earlier launch left has readable weights and all else that it took from `source`."""
    checkpoint = out / "checkpoint"
    try:
        weights = _tensors(checkpoint)
        indices = [json.loads(path.read_bytes())["weight_map"] for path in checkpoint.glob("*.index.json")]
        json.loads((out / WEIGHTS_FILE).read_bytes())
        config = json.loads((checkpoint / CONFIG).read_bytes())
        copied = [path.name for path in source.iterdir() if path.is_file() and not _is_of_weights(path) and path.name not in WRITTEN]
        other = [name for name in copied if (checkpoint / name).read_bytes() != (source / name).read_bytes()]
        whole = bool(weights) and all(name in weights for index in indices for name in index) and isinstance(config, dict) and not other
        reason = f"its {other[0]} is not the policy's" if other else "it holds no whole set of weights and configuration"
    except Exception as error:  # safetensors has its own for each fault
        whole, reason = False, first_line(error)
    if not whole:
        where = "/".join(checkpoint.parts[-3:])
        raise InputError(f"{where} cannot be kept ({reason}); remove {where} and run again: the stage trains anew")


def changed_share(before: Path, after: Path) -> float:
    """The share of the weights of two checkpoints, by name, that are different numbers in bf16."""
    old, new = _tensors(before), _tensors(after)
    changed = total = 0
    for name in sorted(old.keys() & new.keys()):
        weights = [folder[name].get_tensor(name).to(torch.bfloat16) for folder in (old, new)]
        changed += int((weights[0] != weights[1]).sum())
        total += weights[0].numel()
    return changed / max(total, 1)


def _is_of_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")


def _tensors(folder: Path) -> dict[str, Any]:
    """{name: opened file that holds the weight}."""
    files: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 - the file is no dict


def _told(share: float, precision: str) -> str:
    told = f"  weights: {share:.2%} differ in bf16 from those the policy began with"
    if precision == "bf16" and share < FEW_CHANGED:
        told += "\n  warning: in bf16 this is nearly the model that it was; look at the learning rate and the number of steps"
    return told


def _each_once(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the second names of tied weights, which an engine that gathers shards gives a copy of its own."""
    first = {name for name, _ in model.named_parameters()}
    again = {name for name, _ in model.named_parameters(remove_duplicate=False)} - first
    return {name: value for name, value in weights.items() if name not in again}


def remove_state(accelerator: Accelerator, out: Path) -> None:
    """Leave no state behind."""
    if accelerator.is_main_process:
        shutil.rmtree(out / "state", ignore_errors=True)
    accelerator.wait_for_everyone()


def _damaged(path: Path, error: Exception) -> InputError:
    where = "/".join(path.parts[-4:])
    return InputError(f"{where} cannot be continued from ({first_line(error)}); remove {where} and run again: the stage starts anew")


def _name_of(step: int) -> str:
    return f"step-{step:08}"


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _flush(folder: Path) -> None:
    """Bring the files to disk, so that the rename that follows cannot come before them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
