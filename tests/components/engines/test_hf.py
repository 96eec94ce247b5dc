"""The transformers engine: what decides a response, and what must not."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM, GenerationConfig, MistralConfig

from harness.components.engines import hf
from harness.components.engines.hf import Engine, PreallocatedLayer, invert_cdf, keep_top_p, open_engine
from harness.contracts import Request
from harness.errors import InputError, RecipeError
from harness.machine import load
from tests.checkpoints import MACHINE, save_checkpoint
from tests.families import FAMILIES, small_model, unnamed_model
from tests.tiny_checkpoints import byte_checkpoint, gpt2_checkpoint

EOS = 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("hf") / "checkpoint")


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Engine:
    return open_engine(checkpoint, "float32", MACHINE)


def requests(temperature: float, num: int = 10, top_p: float = 1.0) -> list[Request]:
    """Prompts of different lengths, answers of different limits."""
    return [
        Request(f"r{i}", [2, *(5 + (7 * i + k) % 20 for k in range(1 + i % 4)), 3], 3 + 4 * (i % 3), temperature, top_p, 100 + i)
        for i in range(num)
    ]


def test_greedy_equals_plain_generate(engine: Engine, checkpoint: Path) -> None:
    """Temperature 0 gives what `model.generate(do_sample=False)` gives to the prompt alone, whatever the checkpoint's own settings."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.generation_config = GenerationConfig()
    for request, response in zip(requests(0.0), engine.generate(requests(0.0)), strict=True):
        ids = torch.tensor([request.token_ids])
        config = GenerationConfig(do_sample=False, max_new_tokens=request.max_new_tokens, eos_token_id=EOS, pad_token_id=0)
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, ids.shape[1] :].tolist()
        assert response.token_ids == [token for token in expected if token != EOS]
        assert response.finish_reason == ("stop" if EOS in expected else "length")


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_draws_depend_on_the_seed_alone(engine: Engine, top_p: float) -> None:
    """At temperature 1 a response is the same alone, in a batch, and in any order of requests."""
    asked = requests(1.0, top_p=top_p)
    together = engine.generate(asked)
    alone = [engine.generate([request])[0] for request in asked]
    backwards = engine.generate(asked[::-1])[::-1]
    assert together == alone == backwards


def test_a_response_is_the_same_alone_and_among_64(checkpoint: Path) -> None:
    """At temperature 1 a batch of 64 gives each request what it gets alone."""
    large = open_engine(checkpoint, "float32", MACHINE.model_copy(update={"generate_batch": 64}))
    asked = requests(1.0, 64)
    assert large.generate(asked) == [large.generate([request])[0] for request in asked]


@pytest.mark.parametrize("family", [*FAMILIES, "unnamed"])
def test_memory_taken_once_changes_no_response(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: per family, keys and values written in place give what transformers' own cache gives, greedy and drawn, and never move."""
    model = unnamed_model() if family == "unnamed" else small_model(FAMILIES[family]())
    model.generation_config = GenerationConfig()
    engine = Engine(model, [EOS], 4)
    asked = [*requests(0.0), *requests(1.0)]
    places = defaultdict(set)
    update = PreallocatedLayer.update

    def watched(layer: PreallocatedLayer, *states: torch.Tensor, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = update(layer, *states, **settings)
        places[layer].add((keys.data_ptr(), values.data_ptr()))
        return keys, values

    monkeypatch.setattr(PreallocatedLayer, "update", watched)
    in_place = engine.generate(asked)
    assert all(len(where) == 1 for where in places.values())
    assert bool(places) == (family != "unnamed")
    monkeypatch.setattr(hf, "empty_cache", lambda model, num_tokens: None)
    assert in_place == engine.generate(asked)


def test_tokens_bound_a_batch_and_change_no_response(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: with room for few tokens long prompts are answered fewer at a time, the longest first, and each as it would be anyway."""
    asked = requests(1.0, 24)
    sizes: list[tuple[int, int]] = []
    answer = Engine._batch

    def watched(self: Engine, batch: list[Request]) -> object:
        sizes.append((len(batch), max(len(request.token_ids) for request in batch)))
        return answer(self, batch)

    monkeypatch.setattr(Engine, "_batch", watched)
    longest_answer = max(request.max_new_tokens for request in asked)
    assert Engine(engine.model, engine.eos_ids, 100, 60).generate(asked) == engine.generate(asked)
    bounded = sizes[: next(i for i in range(len(sizes)) if sum(size for size, _ in sizes[: i + 1]) == len(asked)) + 1]
    assert all(size * (length + longest_answer) <= 60 for size, length in bounded)
    assert [length for _, length in bounded] == sorted((length for _, length in bounded), reverse=True)
    assert len({size for size, _ in bounded}) > 1


def test_what_a_token_takes(engine: Engine) -> None:
    """Promise: keys and values are counted exactly, and twice; 128 prompts of 3500 tokens of Mistral-7B are cut to fit 80 GB."""
    with torch.no_grad():
        layers = engine.model(torch.tensor([[2, 9, 11, 3]]), use_cache=True).past_key_values.layers
    cached = sum(states.numel() * states.element_size() for layer in layers for states in (layer.keys, layer.values)) // 4
    widest = 4 * engine.model.config.intermediate_size * engine.model.dtype.itemsize
    assert hf.token_bytes(engine.model) == 2 * cached + widest
    with torch.device("meta"):
        mistral = AutoModelForCausalLM.from_config(MistralConfig(vocab_size=32_000), dtype=torch.bfloat16)
    assert hf.token_bytes(mistral) == 2 * 131_072 + 114_688
    assert 128 * 3756 * hf.token_bytes(mistral) + mistral.get_memory_footprint() > 110e9
    room = hf.batch_tokens(mistral, load("h100x1"))
    assert room * hf.token_bytes(mistral) + mistral.get_memory_footprint() == pytest.approx(0.92 * 80e9)
    assert int(room / 3756) == 41
    assert int(room / 426) > 128


def test_another_seed_draws_anew(engine: Engine) -> None:
    """Seeds matter: the same prompt with many seeds is answered in many ways."""
    asked = [request._replace(seed=seed, token_ids=[2, 9, 3], max_new_tokens=8) for seed, request in enumerate(requests(1.0, 20))]
    assert len({tuple(response.token_ids) for response in engine.generate(asked)}) > 10


def test_greedy_and_sampled_rows_share_a_batch(engine: Engine) -> None:
    """A batch of mixed temperatures answers each request as it would alone."""
    mixed = [request._replace(temperature=float(i % 2)) for i, request in enumerate(requests(0.0, 8))]
    assert engine.generate(mixed) == [engine.generate([request])[0] for request in mixed]


def test_each_request_has_its_own_limit(engine: Engine) -> None:
    """No response is longer than its request allows, 'length' means exactly that long, and no EOS is part of a response."""
    asked = requests(1.0, 12)
    responses = engine.generate(asked)
    assert [response.request_id for response in responses] == [request.request_id for request in asked]
    for request, response in zip(asked, responses, strict=True):
        assert EOS not in response.token_ids
        if response.finish_reason == "length":
            assert len(response.token_ids) == request.max_new_tokens
        else:
            assert len(response.token_ids) < request.max_new_tokens


def test_every_eos_ends_a_response(checkpoint: Path) -> None:
    """With several EOS ids, each of them ends a response."""
    plain = open_engine(checkpoint, "float32", MACHINE)
    request = requests(0.0)[5]._replace(max_new_tokens=6)
    first = plain.generate([request])[0].token_ids[0]
    stopping = Engine(plain.model, [EOS, first], 4)
    assert stopping.generate([request])[0] == (request.request_id, [], "stop")


def test_sampling_follows_the_models_distribution(engine: Engine) -> None:
    """Over many seeds, the first token's frequencies are the model's probabilities at that temperature."""
    num, prompt = 2000, [2, 9, 11, 3]
    asked = [Request(str(seed), prompt, 1, 0.7, 1.0, seed) for seed in range(num)]
    engine = Engine(engine.model, engine.eos_ids, 500)
    drawn = Counter(response.token_ids[0] if response.token_ids else EOS for response in engine.generate(asked))
    with torch.no_grad():
        expected = (engine.model(torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1)
    for token, probability in enumerate(expected.tolist()):
        assert abs(drawn[token] / num - probability) < 5 * (probability / num) ** 0.5 + 2 / num


def test_inverse_of_the_distribution() -> None:
    """A uniform number picks the token whose interval holds it; a token without probability is never picked."""
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25]]).repeat(5, 1)
    uniform = torch.tensor([[0.0], [0.2499], [0.25], [0.7499], [1 - 2**-53]], dtype=torch.float64)
    assert invert_cdf(probabilities, uniform).tolist() == [1, 1, 3, 3, 4]


@pytest.mark.parametrize("ranked", [1, 2, 1024])
def test_top_p_keeps_the_fewest_that_reach_it(monkeypatch: pytest.MonkeyPatch, ranked: int) -> None:
    """The smallest most probable set whose sum reaches top_p stays, however many are ranked first; infinity keeps everything."""
    monkeypatch.setattr(hf, "RANKED", ranked)
    probabilities = torch.tensor([[0.5, 0.3125, 0.125, 0.0625]]).repeat(4, 1)
    top_p = torch.tensor([[0.1], [0.5], [0.6], [torch.inf]], dtype=torch.float64)
    assert (keep_top_p(probabilities, top_p) > 0).sum(-1).tolist() == [1, 1, 2, 4]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    """A directory without a model is one clear line."""
    with pytest.raises(InputError, match="cannot be loaded as a model"):
        open_engine(tmp_path / "nothing", "float32", MACHINE)


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    """A prompt without tokens cannot be answered and says so."""
    with pytest.raises(InputError, match="empty prompt"):
        engine.generate([Request("r", [], 3, 0.0, 1.0, 0)])


@pytest.mark.parametrize("num_positions", [128, 64])
def test_what_does_not_fit_the_models_context_is_refused(num_positions: int, tmp_path: Path) -> None:
    """Prompt and longest response may fill the context; one token more is one line, before any request is answered."""
    checkpoint = gpt2_checkpoint(tmp_path) if num_positions == 128 else byte_checkpoint(tmp_path, num_positions)
    engine = open_engine(checkpoint, "float32", MACHINE)
    calls: list[int] = []
    engine.model.register_forward_hook(lambda *_: calls.append(1))
    fits = Request("fits", [5] * (num_positions - 20), 20, 0.0, 1.0, 0)
    assert [response.request_id for response in engine.generate([fits])] == ["fits"]
    calls.clear()
    expected = (
        rf"^request long needs {num_positions + 1} tokens of context \({num_positions - 20} of prompt, .*the model has {num_positions}; "
    )
    with pytest.raises(RecipeError, match=expected):
        engine.generate([fits, fits._replace(request_id="long", max_new_tokens=21)])
    assert calls == []


def test_a_model_that_states_no_context_is_not_checked() -> None:
    """A family without `max_position_embeddings`, such as one whose attention knows distances alone, answers requests of any length."""
    model = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=EOS)).eval()
    assert not hasattr(model.config, "max_position_embeddings")
    assert len(Engine(model, [EOS], 4).generate([Request("r", [5] * 400, 3, 0.0, 1.0, 0)])) == 1


def test_a_batch_ends_with_its_longest_response(engine: Engine) -> None:
    """Once every row of a batch has stopped, by EOS or its own limit, no further token is computed."""
    asked = [request._replace(max_new_tokens=40) for request in requests(1.0, 12)]
    ending = [request for request, response in zip(asked, engine.generate(asked), strict=True) if response.finish_reason == "stop"][:4]
    calls: list[int] = []
    handle = engine.model.register_forward_hook(lambda *_: calls.append(1))
    responses = engine.generate(ending)
    handle.remove()
    assert len(responses) > 1
    assert len(calls) == max(len(response.token_ids) for response in responses) + 1 < 40


def test_a_response_ends_soon_after_a_stop(engine: Engine) -> None:
    """Promise: a text of its `stops` ends a response, whatever the others of its batch are told; what was said up to there is unchanged."""
    asked = [request._replace(max_new_tokens=11) for request in requests(0.0, 8)]
    free = engine.generate(asked)
    long = max(range(8), key=lambda i: len(free[i].token_ids))
    word = engine.tokenizer.decode(free[long].token_ids[2:3])
    stopped = engine.generate([request._replace(stops=(word,) if i == long else ()) for i, request in enumerate(asked)])
    found = stopped[long]
    assert word in engine.tokenizer.decode(found.token_ids)
    assert found.token_ids == free[long].token_ids[: len(found.token_ids)]
    assert (len(found.token_ids) <= 3, found.finish_reason) == (True, "stop")
    assert [*stopped[:long], *stopped[long + 1 :]] == [*free[:long], *free[long + 1 :]]
