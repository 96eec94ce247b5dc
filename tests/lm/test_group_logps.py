"""The shared-prompt scorer equals scoring each prompt + response alone."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma3TextConfig, LlamaConfig, PretrainedConfig

import harness.lm.group_logps
from harness.errors import InputError
from harness.lm.group_logps import Group, GroupScorer, _TokenLogps, group_logps, score_groups, shares_prompts
from harness.machine import load as machine
from harness.plan import plan
from harness.recipe import load
from tests.families import FAMILIES as SHARED
from tests.families import SIZES, VOCABULARY, small_model, unnamed

FAMILIES = {**SHARED, "gpt2": unnamed}


def random_groups(*, hidden_keys: bool = False, num_branches: int = 2) -> list[Group]:
    draw = random.Random(1)
    groups = []
    for _ in range(3):
        prompt, *branches = ([draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 12))] for _ in range(num_branches + 1))
        group = Group(prompt, branches)
        if hidden_keys:
            keys = [[True, *(draw.random() < 0.7 for _ in part[1:])] for part in (prompt, *branches)]
            group = group._replace(prompt_keys=keys[0], branch_keys=keys[1:])
        groups.append(group)
    return groups


def alone(model: nn.Module, group: Group, i: int) -> tuple[Tensor, bool]:
    """Reference: one sequence, no padding, full logits, log_softmax."""
    branch = group.branches[i]
    tokens = torch.tensor([group.prompt + branch])
    keys = torch.tensor(
        [(group.prompt_keys or [True] * len(group.prompt)) + (group.branch_keys[i] if group.branch_keys else [True] * len(branch))]
    )
    logps = model(input_ids=tokens, attention_mask=keys.long()).logits[0].float().log_softmax(-1)[len(group.prompt) - 1 : -1]
    picked = logps.gather(1, torch.tensor(branch)[:, None])
    return picked.sum(), bool((logps.argmax(-1) == torch.tensor(branch)).all())


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float(((ours - reference).norm() / reference.norm()).detach())


@pytest.mark.parametrize("hidden_keys", [False, True], ids=["all_keys", "hidden_keys"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_rows_equal_single_sequences_gradients_included(family: str, hidden_keys: bool) -> None:
    """Promise: log-probabilities and gradients equal the one-sequence-at-a-time computation to 1e-5, for every family."""
    model = small_model(FAMILIES[family]())
    groups = random_groups(hidden_keys=hidden_keys)
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]])

    ours = group_logps(model, groups, chunk_tokens=4)
    gradients = torch.autograd.grad((ours * weights).sum(), list(model.parameters()))
    reference = torch.stack([torch.stack([alone(model, group, i)[0] for i in range(2)]) for group in groups])
    expected = torch.autograd.grad((reference * weights).sum(), list(model.parameters()))

    assert relative_error(ours, reference) < 1e-5
    whole = [torch.cat([g.flatten() for g in some]) for some in (gradients, expected)]
    assert relative_error(whole[0], whole[1]) < 1e-5
    assert shares_prompts(model) == (family != "gpt2")


@pytest.mark.parametrize("family", ["llama", "mistral_window_5"])
def test_a_filled_row_gives_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: the tokens that fill a GPU's row up to whole blocks change neither log-probabilities nor gradients."""
    model, groups = small_model(FAMILIES[family]()), random_groups(hidden_keys=True)
    expected = group_logps(model, groups)
    wanted = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
    monkeypatch.setattr(harness.lm.group_logps, "ROW_MULTIPLES", {"cpu": 128})
    lengths: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))  # type: ignore[operator]
    filled = group_logps(model, groups)
    gradients = torch.autograd.grad(filled.square().sum(), list(model.parameters()))
    assert lengths == [128]
    assert relative_error(filled, expected) < 1e-6
    assert all(relative_error(ours, theirs) < 1e-5 for ours, theirs in zip(gradients, wanted, strict=True) if theirs.norm() > 1e-6)


def test_kept_and_recomputed_logits_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: how much of the logits is kept is a matter of memory only; keeping none, some or all gives one gradient."""
    model = small_model(LlamaConfig(**SIZES))
    groups = random_groups()
    found = []
    for kept in (0, 4 * VOCABULARY * 10, 1 << 30):
        monkeypatch.setattr(harness.lm.group_logps, "KEPT_LOGITS_BYTES", kept)
        monkeypatch.setattr(harness.lm.group_logps, "SLICE_ELEMENTS", 3 * VOCABULARY)
        gradients = torch.autograd.grad(group_logps(model, groups, chunk_tokens=4).square().sum(), list(model.parameters()))
        found.append(torch.cat([g.flatten() for g in gradients]))
    assert relative_error(found[0], found[2]) < 1e-6
    assert relative_error(found[1], found[2]) < 1e-6


def test_a_second_backward_pass_is_refused() -> None:
    """Promise: the logits became their own gradient, so a second pass over the same graph is an error, never a wrong number."""
    logps = group_logps(small_model(LlamaConfig(**SIZES)), random_groups()).sum()
    logps.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logps.backward()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float32, 1e-6)])
def test_autocast_follows_fp32(dtype: torch.dtype, tolerance: float) -> None:
    """Promise: under bf16 autocast the gradient is fp32's to bf16's precision (5 %), by the same code."""
    model = small_model(LlamaConfig(**SIZES))
    exact = torch.autograd.grad(group_logps(model, random_groups()).sum(), list(model.parameters()))
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        logps = group_logps(model, random_groups())
    assert logps.dtype == torch.float32
    found = torch.autograd.grad(logps.sum(), list(model.parameters()))
    whole = [torch.cat([g.flatten() for g in some]) for some in (found, exact)]
    assert relative_error(whole[0], whole[1]) < tolerance


@pytest.mark.parametrize("rest", [0.1, 0.01, 0.001])
def test_confident_tokens_keep_their_gradient_in_bf16(rest: float) -> None:
    """Promise: the gradient of a logit whose token has probability 1 - `rest` is right to bf16's own rounding, however small `rest` is."""
    vocabulary, scale = 64, 0.37
    logits = torch.zeros(1, vocabulary)
    logits[0, 5] = math.log((1 - rest) / rest * (vocabulary - 1))
    rounded = logits.bfloat16().requires_grad_()
    exact = rounded.detach().float().requires_grad_()
    logp = _TokenLogps.apply(rounded * 1, torch.tensor([5]))
    (scale * logp.sum()).backward()
    (scale * exact.log_softmax(dim=1)[0, 5]).backward()
    torch.testing.assert_close(rounded.grad.float(), exact.grad, rtol=2**-7, atol=0.0)


@pytest.mark.parametrize("config", [Gemma2Config(**SIZES, head_dim=8), Gemma3TextConfig(**SIZES, head_dim=8)], ids=["gemma2", "gemma3"])
def test_families_with_other_attention_are_not_claimed(config: PretrainedConfig) -> None:
    """Promise: Gemma 2 and 3 (capped logits, alternating windows) are scored by the plain path, and rightly."""
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(config).eval()
    assert not shares_prompts(model)
    groups = random_groups()
    reference = torch.stack([torch.stack([alone(model, group, i)[0] for i in range(2)]) for group in groups])
    assert relative_error(group_logps(model, groups), reference) < 1e-5


def test_eager_attention_takes_the_padded_path() -> None:
    """Promise: a model whose attention would misread a boolean mask is scored by the plain path, and rightly."""
    model = small_model(LlamaConfig(**SIZES))
    groups = random_groups()
    shared = group_logps(model, groups)
    model.set_attn_implementation("eager")  # type: ignore[operator]
    assert not shares_prompts(model)
    assert relative_error(group_logps(model, groups), shared) < 1e-5


def test_scores_for_evaluation_agree_with_the_reference() -> None:
    """Promise: any number of branches; `is_greedy` is what greedy decoding would have said; no gradient is kept."""
    model = small_model(LlamaConfig(**SIZES))
    prompt = [5, 6, 7]
    best = [int(model(torch.tensor([prompt])).logits[0, -1].argmax())]
    best.append(int(model(torch.tensor([prompt + best])).logits[0, -1].argmax()))
    groups = [Group(prompt, [best, [best[0], (best[1] + 1) % VOCABULARY], [1]]), Group([9], [[3], []])]
    scores = score_groups(model, groups)
    assert [score.is_greedy for score in scores[0][:2]] == [True, False]
    assert [len(some) for some in scores] == [3, 2]
    for i in range(3):
        logp, greedy = alone(model, groups[0], i)
        assert math.isclose(scores[0][i].logp, logp.item(), rel_tol=1e-5)
        assert scores[0][i].is_greedy == greedy
    assert scores[1][1] == (0.0, True)


def test_chunks_do_not_change_the_result() -> None:
    """Promise: the size of the chunks is a matter of memory only."""
    model = small_model(LlamaConfig(**SIZES))
    groups = random_groups(num_branches=3)
    torch.testing.assert_close(group_logps(model, groups, chunk_tokens=1), group_logps(model, groups, chunk_tokens=10_000))


def test_scorer_module_is_the_function() -> None:
    """Promise: wrapping the scorer for DDP does not change what is computed."""
    model = small_model(LlamaConfig(**SIZES))
    assert torch.equal(GroupScorer(model)(random_groups()), group_logps(model, random_groups()))


def test_empty_prompt_is_an_error() -> None:
    """Promise: without a prompt token nothing predicts the first token, and that is said."""
    with pytest.raises(InputError, match="no tokens"):
        group_logps(small_model(LlamaConfig(**SIZES)), [Group([], [[1], [2]])])


def test_groups_of_different_sizes_are_refused() -> None:
    """Promise: the differentiable form is rectangular."""
    with pytest.raises(ValueError, match="number of branches"):
        group_logps(small_model(LlamaConfig(**SIZES)), [Group([1], [[1], [2]]), Group([1], [[1]])])


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as the recipe smollm2-135m makes it."""
    pytest.importorskip("gguf", reason="reads the weights: pip install -e '.[smollm2]'")
    from harness.stages.model import run

    folder = tmp_path_factory.mktemp("smollm2")
    stage = next(stage for stage in plan(load("smollm2-135m")) if stage.kind == "model")
    run(stage.spec, {}, folder, machine("cpu1"))
    return folder / "checkpoint"


def test_a_real_model_is_scored_more_exactly_than_by_the_naive_computation(smollm2: Path) -> None:
    """Promise: on SmolLM2-135M in fp32, log-probabilities are within 1e-4 and the gradient within 1e-5 of the naive computation in fp64.

    The naive computation in fp32 is not: torch's log_softmax over 49152 tokens drifts, by about 4e-6 a token.
    """
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    texts = ["Name a prime.", "Seven is a prime: only one and itself divide it.", "Nine, since nothing divides nine but three."]
    prompt, *branches = (tokenizer(text, add_special_tokens=False)["input_ids"] * 2 for text in texts)
    group = Group(prompt, branches)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, dtype in (("ours", torch.float32), ("naive", torch.float32), ("exact", torch.float64)):
        model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=dtype)
        logps = group_logps(model, [group])[0] if name == "ours" else naive(model, group)
        gradients = torch.autograd.grad(logps[0] - logps[1], list(model.parameters()))
        found[name] = (logps.detach().double(), torch.cat([gradient.flatten().double() for gradient in gradients]))
    exact_logps, exact_gradient = found["exact"]
    error = {name: float((found[name][0] - exact_logps).abs().max()) for name in ("ours", "naive")}
    assert error["ours"] < 1e-4
    assert error["ours"] < error["naive"]
    assert relative_error(found["ours"][1], exact_gradient) < 1e-5
    assert relative_error(found["ours"][1], exact_gradient) < relative_error(found["naive"][1], exact_gradient)


def naive(model: nn.Module, group: Group) -> Tensor:
    """(num_branches,) summed log-probabilities in the model's own dtype, one sequence after the other."""
    sums = []
    for branch in group.branches:
        logits = model(input_ids=torch.tensor([group.prompt + branch]), use_cache=False).logits[0, len(group.prompt) - 1 : -1]
        logps = logits.log_softmax(-1)
        sums.append(logps.gather(1, torch.tensor(branch)[:, None]).sum())
    return torch.stack(sums)
