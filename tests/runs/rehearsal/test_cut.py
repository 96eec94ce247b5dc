"""A rehearsal is the recipe with less of everything and nothing else changed, from files at hand and from random weights where asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, Qwen3Config

from harness import recipe as recipes
from harness.errors import InputError
from harness.plan import plan, steps_of
from harness.recipe import ModelRef, Recipe, load
from harness.runs.rehearsal.cut import NUM_QUESTIONS, NUM_STEPS, changed, cut, with_files
from harness.runs.rehearsal.random_weights import num_parameters, random_model
from tests.tiny_checkpoints import byte_checkpoint

ROWS = 400
SHIPPED = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 5, "num_attention_heads": 6, "num_key_value_heads": 3}
KEPT = ("engine", "sampling", "generation_template", "training_template", "tokenization", "objective", "grouping", "lora", "optimizer",
        "precision", "global_batch_size", "max_length", "max_prompt_length", "chat", "seed", "sft_model")  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer of a Mistral, and prompts with the columns of ultrachat_200k, the later the longer."""
    folder = tmp_path_factory.mktemp("files")
    byte_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    MistralConfig(vocab_size=257, **SHIPPED).save_pretrained(folder)
    for split, start in (("train_sft", 0), ("test_sft", ROWS), ("train_prefs", 0)):
        rows = [_row(number) for number in range(start, start + ROWS)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _row(number: int) -> dict[str, object]:
    prompt, answer = f"question {number}", "word " * (number + 1)
    dialogue = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    worse = [dialogue[0], {"role": "assistant", "content": "no"}]
    return {"prompt": prompt, "prompt_id": "0", "messages": dialogue, "chosen": dialogue, "rejected": worse}


@pytest.mark.parametrize("name", ["zephyr-7b", "zephyr-7b-release", "zephyr-7b-vllm", "zephyr-7b-baselines", "qwen3-0-6b", "tiny"])
def test_only_the_amounts_are_less(files: Path, name: str) -> None:
    """Promise: the same stages in the same order, the same settings, two steps an iteration, two questions a task, no published numbers."""
    recipe = with_files(load(name), files)
    short = cut(recipe)
    assert [(stage.path, stage.kind) for stage in plan(short)] == [(stage.path, stage.kind) for stage in plan(recipe)]
    assert {field: getattr(short, field) for field in KEPT} == {field: getattr(recipe, field) for field in KEPT}
    if name not in ("zephyr-7b-baselines", "tiny"):  # fine-tunings with a larger batch need more prompts
        assert [steps_of(short, t) for t in range(len(short.iterations))] == [NUM_STEPS] * len(recipe.iterations)
    asked = [task.limit for benchmark in short.benchmarks if benchmark.name != "held_out" for task in benchmark.tasks]
    assert set(asked) == {NUM_QUESTIONS}
    assert (short.name, short.claims) == (f"rehearsal-of-{name}", None)


def test_it_has_an_identity_of_its_own(files: Path) -> None:
    """Promise: no stage of a rehearsal but the untouched model could be taken for one of the run."""
    recipe = with_files(load("zephyr-7b-baselines"), files)
    own = {stage.fingerprint for stage in plan(recipe)}
    assert [stage.path for stage in plan(cut(recipe)) if stage.fingerprint in own] == ["sft/model"]


def test_the_longest_rows_come_first(files: Path) -> None:
    """Promise: what is taken of a data set are its longest rows, so that a step needs the memory that it will need."""
    short = cut(with_files(load("zephyr-7b"), files))
    named = [prompt_hash(number) for number in range(ROWS - 1, ROWS - 1 - short.prompts.num_prompts, -1)]
    assert list(short.prompts.prompt_ids) == named


def prompt_hash(number: int) -> str:
    """The name of a row of `files`."""
    from harness.training.instructions import prompt_id

    return prompt_id([{"role": "user", "content": f"question {number}"}])[:16]


def test_files_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    """Promise: a wrong --files says what was expected."""
    with pytest.raises(InputError, match=r"none is no directory; expected one with config\.json, a tokenizer and data files"):
        with_files(load("zephyr-7b"), tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no config\.json"):
        random_model(load("zephyr-7b").sft_model, tmp_path, tmp_path / "out", narrow=True)


@pytest.mark.parametrize("narrow", [True, False])
def test_random_weights_need_configuration_and_tokenizer_alone(files: Path, tmp_path: Path, narrow: bool) -> None:
    """Promise: a model of the same family with two layers, narrow where asked, that reads the same tokens; the same each time."""
    ref = random_model(load("zephyr-7b").sft_model, files, tmp_path, narrow=narrow)
    model = AutoModelForCausalLM.from_pretrained(ref.name)
    assert (ref.source, model.config.model_type, model.config.num_hidden_layers) == ("path", "mistral", 2)
    assert model.config.hidden_size == (32 if narrow else SHIPPED["hidden_size"])
    assert num_parameters(Path(ref.name)) == sum(weight.numel() for weight in model.parameters())
    assert AutoTokenizer.from_pretrained(ref.name)("text").input_ids == AutoTokenizer.from_pretrained(files)("text").input_ids
    before = (Path(ref.name) / "model.safetensors").read_bytes()
    assert random_model(load("zephyr-7b").sft_model, files, tmp_path / "again", narrow=narrow).name != ref.name
    assert (tmp_path / "again" / Path(ref.name).name / "model.safetensors").read_bytes() == before


def test_layers_that_a_configuration_lists_are_listed_anew(files: Path, tmp_path: Path) -> None:
    """Promise: a configuration that names the kind of every layer (Qwen3) is cut as well."""
    folder = tmp_path / "qwen"
    folder.mkdir()
    Qwen3Config(vocab_size=257, tie_word_embeddings=True, head_dim=16, **SHIPPED).save_pretrained(folder)
    ref = random_model(load("qwen3-0-6b").sft_model, folder, tmp_path / "out", narrow=True)
    config = AutoModelForCausalLM.from_pretrained(ref.name).config
    assert (len(config.layer_types), config.head_dim, config.tie_word_embeddings) == (2, 8, True)


def test_what_is_small_or_random_already_stays(tmp_path: Path) -> None:
    """Promise: a scratch model and one of a package are rehearsed as they are."""
    for name in ("tiny", "smollm2-135m"):
        assert random_model(load(name).sft_model, None, tmp_path, narrow=True) == load(name).sft_model


def test_every_model_of_a_recipe_is_replaced(files: Path, tmp_path: Path) -> None:
    """Promise: published checkpoints, too, start from random weights."""
    anchors: Recipe = changed(load("zephyr-7b-anchors"), ModelRef, lambda ref: random_model(ref, files, tmp_path, narrow=True))
    models = [anchor.model for anchor in anchors.anchors.values() if anchor.model]
    assert models
    assert {model.source for model in (anchors.sft_model, *models)} == {"path"}


def test_every_shipped_recipe_can_be_cut_without_its_data() -> None:
    """Promise: nothing but data sets of the Hub need be read to cut a recipe."""
    for name in recipes.available():
        recipe = load(name)
        if recipe.prompts.source == "procedural":
            assert cut(recipe).prompts.prompt_ids == ()
