"""Work shared by several replicas of an engine: in this process, in processes of this node, or over nodes through Ray Data.

A replica is what `build()` returns: a function of a shard's items. Shards are independent, and each is answered by one replica from
beginning to end; so the answers do not depend on how many replicas there are, and a replica that dies loses only its shard in hand,
which is answered anew.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from importlib.util import find_spec
from multiprocessing.connection import wait as wait_for
from typing import Any, NamedTuple

from harness.errors import HarnessError, MachineError
from harness.files import KEPT_IN
from harness.machine import Machine

MAX_DEATHS = 3
PASSED_ON = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME", "OMP_NUM_THREADS", KEPT_IN)

Replica = Callable[[Sequence[Any]], list[dict[str, Any]]]


class Shard(NamedTuple):
    """A piece of work: its number and its items, which are plain values."""

    number: int
    items: list[Any]


class Answer(NamedTuple):
    """What a replica made of the shard of that number."""

    number: int
    lines: list[dict[str, Any]]


class Replicas:
    """The replicas of `machine`, opened when first asked and kept until closed. `build` must be picklable where there are several."""

    def __init__(self, build: Callable[[], Replica], machine: Machine) -> None:
        self._build, self._machine = build, machine
        self._here: Replica | None = None
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def answer(self, shards: Sequence[Shard]) -> Iterator[Answer]:
        """The answer to each shard, in the order they are finished."""
        if self._machine.replicas_on == "ray":
            yield from _over_ray(shards, self._build, self._machine)
        elif self._machine.num_replicas > 1:
            yield from self._over_processes(shards)
        else:
            self._here = self._here or self._build()
            for shard in shards:
                yield Answer(shard.number, self._here(shard.items))

    def close(self) -> None:
        """End the replicas now: what they hold is not needed any more."""
        while self._pools:
            _stop(self._pools.popitem()[1])

    def _over_processes(self, shards: Sequence[Shard]) -> Iterator[Answer]:
        """One process a replica, each asked for the next shard when it has answered one; a dead one is replaced."""
        waiting, deaths = iter(shards), Counter[int]()
        running: dict[Future[list[dict[str, Any]]], tuple[int, Shard]] = {}
        for number, shard in zip(range(self._machine.num_replicas), waiting, strict=False):
            running[self._submit(number, shard)] = (number, shard)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, shard = running.pop(future)
                try:
                    answered = Answer(shard.number, future.result())
                except BrokenProcessPool:
                    del self._pools[number]
                    deaths[shard.number] += 1
                    _refuse_hopeless(shard, deaths)
                    running[self._submit(number, shard)] = (number, shard)
                    continue
                following = next(waiting, None)
                if following is not None:
                    running[self._submit(number, following)] = (number, following)
                yield answered

    def _submit(self, number: int, shard: Shard) -> Future[list[dict[str, Any]]]:
        if number not in self._pools:
            self._pools[number] = _pool(pickle.dumps(self._build), environment(self._machine, number))
        return self._pools[number].submit(_work, shard.items)


def answer(shards: Sequence[Shard], build: Callable[[], Replica], machine: Machine) -> Iterator[Answer]:
    """`Replicas.answer` with replicas that end with the last shard."""
    with closing(Replicas(build, machine)) as replicas:
        yield from replicas.answer(shards)


def environment(machine: Machine, number: int) -> dict[str, str]:
    """The variables of replica `number` of this node: its own of `replica_env`, or its share of the visible CUDA devices."""
    if machine.replica_env:
        if len(machine.replica_env) != machine.num_replicas:
            raise MachineError(
                f"machine {machine.name} has {machine.num_replicas} replicas and {len(machine.replica_env)} entries in `replica_env`; "
                "expected one for each"
            )
        return machine.replica_env[number]
    if machine.device != "cuda":
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(machine.num_devices)))
    devices = visible.split(",")
    needed = machine.num_replicas * machine.tensor_parallel
    if needed > len(devices):
        raise MachineError(
            f"machine {machine.name} asks for {machine.num_replicas} replicas of {machine.tensor_parallel} devices, "
            f"{len(devices)} are visible; lower `num_replicas` or `tensor_parallel`"
        )
    start = number * machine.tensor_parallel
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[start : start + machine.tensor_parallel])}


def _pool(packed: bytes, env: dict[str, str]) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max_workers=1, mp_context=spawn, initializer=_begin, initargs=(packed, env))


def _stop(pool: ProcessPoolExecutor) -> None:
    """End a replica now: what it holds is not needed any more."""
    processes = list(pool._processes.values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
        process.join()


def _refuse_hopeless(shard: Shard, deaths: Counter[int]) -> None:
    if deaths[shard.number] >= MAX_DEATHS:
        raise MachineError(
            f"the replica that answers shard {shard.number} died {MAX_DEATHS} times: out of memory, or killed by hand; "
            "what is finished is kept. Fewer replicas or a smaller batch in the machine file need less memory"
        )


_replica: list[Replica] = []
_build: list[bytes] = []


def _begin(packed: bytes, env: dict[str, str]) -> None:
    """In the replica's process: take its variables before anything heavy is imported, and end when the parent does."""
    os.environ.update(env)
    _build[:] = [packed]
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait_for([parent.sentinel]), os._exit(1)), daemon=True).start()


def _work(items: Sequence[Any]) -> list[dict[str, Any]]:
    """In the replica's process: answer a shard; the engine is opened for the first one."""
    if not _replica:
        _replica.append(pickle.loads(_build[0])())
    return _replica[0](items)


class _Actor:
    """In a Ray actor: a replica that answers batches of one shard. An error for the user comes back as it is, not as a dead actor."""

    def __init__(self, packed: bytes) -> None:
        _build[:] = [packed]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"number": batch["number"], "lines": [pickle.dumps(_work_or_error(pickle.loads(items))) for items in batch["items"]]}


def _work_or_error(items: Sequence[Any]) -> list[dict[str, Any]] | HarnessError:
    try:
        return _work(items)
    except HarnessError as error:
        return error


def _over_ray(shards: Sequence[Shard], build: Callable[[], Replica], machine: Machine) -> Iterator[Answer]:
    """Ray Data's pool of actors, one a replica; Ray starts a dead one again and repeats its shard."""
    if find_spec("ray") is None:
        raise MachineError(f"machine {machine.name} generates over Ray, which is not installed; run: pip install 'harness-spin[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"number": shard.number, "items": pickle.dumps(shard.items)} for shard in shards]
    answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(pickle.dumps(build),),
        batch_size=1,
        concurrency=machine.num_replicas,
        num_cpus=machine.num_threads or 1,
        num_gpus=machine.tensor_parallel if machine.device == "cuda" else 0,
        runtime_env={"env_vars": {**{name: os.environ[name] for name in PASSED_ON if name in os.environ}, **machine.env}},
    )
    for row in answers.iter_rows():
        lines = pickle.loads(row["lines"])
        if isinstance(lines, HarnessError):
            raise lines
        yield Answer(int(row["number"]), lines)
