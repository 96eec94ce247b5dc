"""Upload of an iteration's checkpoint and card to the Hub. Nothing is sent unless the caller asks for it.

The token is huggingface_hub's own (HF_TOKEN or a login) and is never read, printed or stored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from harness.artifact import RunDir, hash_file
from harness.errors import InputError
from harness.report.hub import to_card

CHECKPOINT = "checkpoint/"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class Hub(Protocol):
    """The two calls of huggingface_hub.HfApi that are made."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def create_commit(self, repo_id: str, operations: Sequence[CommitOperationAdd], *, commit_message: str) -> Any: ...


class Upload(NamedTuple):
    """What would be sent: {path in the repository: bytes of the file}."""

    repo: str
    files: dict[str, bytes | Path]


def prepare(run: Path, row: str, repo: str) -> Upload:
    """The checkpoint's recorded files, re-hashed, and the card. Raises InputError for what is missing, changed or not safe to load."""
    stage, folder = f"{row}/train", RunDir(run)
    card = str(to_card(run, row)).encode()
    record = folder.record(stage)
    if record is None:
        raise InputError(f"{stage} is not finished in {run}; only a finished iteration is uploaded")
    files: dict[str, bytes | Path] = {"README.md": card}
    for name, recorded in record.outputs.items():
        if name.startswith(CHECKPOINT):
            path = folder.stage_dir(stage) / name
            if not path.exists() or hash_file(path) != recorded:
                raise InputError(f"{stage}/{name} is missing or not the file its record names; see `harness verify`")
            if path.suffix in PICKLES:
                raise InputError(f"{stage}/{name} can run code when loaded; only safetensors are uploaded")
            files[name.removeprefix(CHECKPOINT)] = path
    if len(files) == 1:
        raise InputError(f"{stage} recorded no checkpoint; there is nothing to upload")
    return Upload(repo, files)


def upload(prepared: Upload, hub: Hub, *, private: bool) -> None:
    """Create the repository where it is missing and send everything as one commit. Raises InputError where the Hub refuses."""
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in prepared.files.items()]
    try:
        hub.create_repo(prepared.repo, private=private, exist_ok=True)
        hub.create_commit(prepared.repo, operations, commit_message=f"Upload {len(operations)} files")
    except LocalTokenNotFoundError:
        raise InputError("no Hub token found; set HF_TOKEN or run `hf auth login`, then push again") from None
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE is set, so nothing was sent; unset it and push again") from None
    except HFValidationError:
        raise InputError(f"{prepared.repo!r} is no repository id; expected OWNER/NAME") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no response"
        raise InputError(f"the Hub refused {prepared.repo} (HTTP {status}); check its name and your token's rights") from None
