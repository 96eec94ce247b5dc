"""What training leaves on disk: the state a killed run continues from, and the finished checkpoint; each complete or absent.

state/step-00000120/   accelerate's state (weights, optimizer, schedule) after 120 steps, and progress.json
checkpoint/            the trained policy
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from pydantic import Field
from torch import nn

from harness.config import Strict
from harness.errors import InputError, first_line
from harness.files import dump, naming_full_disk, write_atomic
from harness.recipe import Lora
from harness.training.policy import merged

PROGRESS_FILE = "progress.json"


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
        write_atomic(beside / PROGRESS_FILE, dump(Progress(identity=identity, step=step)))
        _flush(beside)
        earlier = _complete(folder)
        beside.rename(folder / f"step-{step:08}")
        for path in earlier:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def load_state(accelerator: Accelerator, out: Path, identity: str) -> int:
    """Continue from the last complete state of the same inputs: the number of steps done, 0 for none. `log.jsonl` is cut to match."""
    step = 0
    for path in _complete(out / "state")[-1:]:
        found = _progress(path)
        if found.identity == identity:
            try:
                accelerator.load_state(str(path))
            except Exception as error:  # a cut file is told by torch, safetensors, pickle or json, each in its own way
                raise _damaged(path, error) from None
            accelerator.step = 0  # accumulated micro-batches: their number may be another than in the launch that saved
            step = found.step
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        log = out / "log.jsonl"
        lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
        write_atomic(log, b"".join(lines[:step]))
        if step == 0:
            shutil.rmtree(out / "state", ignore_errors=True)
    accelerator.wait_for_everyone()
    return step


def save_checkpoint(accelerator: Accelerator, scorer: nn.Module, source: Path, out: Path, lora: Lora | None) -> None:
    """`checkpoint/`: the weights of `scorer`'s model, adapters added in, and from `source` whatever else lies there (the tokenizer)."""
    weights = accelerator.get_state_dict(scorer)
    if accelerator.is_main_process:
        beside = out / "checkpoint.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        with naming_full_disk(out / "checkpoint"):
            model: Any = accelerator.unwrap_model(scorer).model
            model.save_pretrained(beside, state_dict=merged({name.removeprefix("model."): value for name, value in weights.items()}, lora))
            for path in sorted(source.iterdir()):
                is_weights = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
                if path.is_file() and not is_weights and not (beside / path.name).exists():
                    shutil.copyfile(path, beside / path.name)
            _flush(beside)
        beside.rename(out / "checkpoint")
    accelerator.wait_for_everyone()


def remove_state(accelerator: Accelerator, out: Path) -> None:
    """Leave no state behind."""
    if accelerator.is_main_process:
        shutil.rmtree(out / "state", ignore_errors=True)
    accelerator.wait_for_everyone()


class Progress(Strict):
    """`progress.json`: of which inputs a state is, and after how many steps."""

    identity: str
    step: int = Field(ge=0)


def _progress(path: Path) -> Progress:
    try:
        return Progress.model_validate_json((path / PROGRESS_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    where = "/".join(path.parts[-4:])
    return InputError(f"{where} cannot be continued from ({first_line(error)}); remove {where} and run again: the stage starts anew")


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _flush(folder: Path) -> None:
    """Bring the files to disk, so that the rename that follows cannot come before them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
