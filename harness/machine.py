"""Where a recipe runs. Nothing here may affect results beyond floating-point noise, so nothing here enters a fingerprint."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from harness.config import Strict, find, load_attribute, shipped
from harness.errors import MachineError, RecipeError, first_line
from harness.recipe import Recipe

Tracker = Literal["tensorboard", "wandb", "trackio"]
StageKind = Literal["model", "prompts", "preferences", "generate", "train", "evaluate", "verdicts"]
MACHINES_DIR = shipped("machines")
SHOWN_NAMES = frozenset(("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "TOKENIZERS_PARALLELISM", "TQDM_DISABLE", "RAY_ADDRESS"))
SHOWN_PREFIXES = (
    "ACCELERATE_", "CUBLAS_", "DS_", "FSDP_", "GLOO_", "HF_DATASETS_OFF", "HF_HUB_OFF", "KMP_", "MKL_", "NCCL_", "OMP_", "OPENBLAS_",
    "PYTORCH_", "TORCH", "TRANSFORMERS_OFF", "VLLM_",
)  # fmt: skip
MAX_THREADS = 4096
"""More than a machine's cores today: a larger number is a slip, on which torch would die with a traceback."""
USABLE = 0.92
"""The share of a device's memory that is ours: the rest is the driver's context and fragments."""
SECRET_WORDS = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH")
NOT_RECORDED = "(not recorded)"
"""In the place of the value of a variable that is on no list of variables without secrets."""


class Request(Strict):
    """What a stage's job asks of Slurm; what is None or absent is left to the cluster."""

    nodes: int = Field(default=1, gt=0)
    """Nodes of the job; what follows is asked of each of them."""
    gpus: int = Field(default=0, ge=0)
    """GPUs; a generation or an evaluation uses as many devices as its job has."""
    cpus: int = Field(default=1, gt=0)
    """CPU cores."""
    memory_gb: float | None = None
    """Main memory, in GB."""
    minutes: int = Field(gt=0)
    """Time limit. A job that reaches it goes back to the queue, and its stage continues from its state."""
    partition: str | None = None
    """As sbatch takes it."""
    account: str | None = None
    """As sbatch takes it."""
    array: int = Field(default=1, gt=0)
    """Of a generation: more than 1 shares its prompts among so many jobs of an array, each with this request, before its own job."""
    options: dict[str, str] = {}
    """Further options of sbatch by their long names, such as {"qos": "low"}."""


class Machine(Strict):
    """Devices, batch sizes per device, and how stages are launched."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    """As `--machine` takes it, and a directory of rehearsals."""
    summary: str
    """One line for lists."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What a device is: a process on the CPU, or a GPU."""
    num_devices: int = Field(default=1, gt=0)
    """Devices, which is processes, of a training, over all nodes; it must divide every global batch."""
    num_nodes: int = Field(default=1, gt=0)
    """Nodes that the devices are on, equally many on each."""
    num_threads: int | None = Field(default=None, gt=0, le=MAX_THREADS)
    """CPU threads of each process; None leaves the number to torch."""
    micro_batch: int = Field(default=8, gt=0)
    """Pairs of one forward and backward pass on a device; more pairs of a global batch are accumulated."""
    generate_batch: int = Field(default=32, gt=0)
    """Prompts that an engine answers at a time (`hf`; of long ones what `memory_gb` holds), or requests open at a time (`openai_api`);
    vLLM batches by itself."""
    generate_shard: int = Field(default=256, gt=0)
    """Prompts of one file of responses at most: what a killed generation loses of a replica, and what that is handed at a time."""
    evaluate_batch: int = Field(default=4, gt=0)
    """Questions that an evaluation works on at a time, on a device."""
    judge_threads: int = Field(default=8, gt=0)
    """Requests to a judge's endpoint open at a time."""
    judge_retries: int = Field(default=5, ge=0)
    """How often a failed request to the judge is sent again."""
    judge_timeout_seconds: float = Field(default=180.0, gt=0)
    """Seconds after which a request to the judge has failed."""
    gradient_checkpointing: bool = False
    """Whether training recomputes activations: less memory, about a third more time."""
    checkpoint_every_seconds: float = Field(default=600.0, ge=0)
    """Seconds of training between states that a killed run continues from."""
    fork_stages: bool = False
    """Whether stages are forked from one process that has imported the libraries; not with CUDA."""
    slots: int = Field(default=1, gt=0)
    """Room for stages side by side: CPU cores, or devices; with more slots than devices, stages of a small model share a device."""
    slots_of: dict[StageKind, PositiveInt] = {}
    """Slots that a stage of a kind takes; on GPUs they are the devices it sees, or its share of one. A kind that is not named takes all,
    or one where it uses no device: model, prompts, preferences, verdicts. On several GPUs a training, which runs on all, must take all."""
    slurm: Request | None = None
    """What each stage's job asks of Slurm, whose queue the stages then go through; None: they run here."""
    slurm_of: dict[StageKind, Request] = {}
    """The requests of kinds of stages that ask for something else than `slurm`."""
    launcher: tuple[str, ...] = ("{python}",)
    """The command before `-m harness stage DIR` of a training stage; '{python}' is the interpreter, '{num_devices}' all devices,
    '{num_nodes}' and '{node_devices}' the nodes and the devices of each."""
    sharding: Literal["none", "fsdp2", "fsdp2_offload"] = "none"
    """What the processes of a training divide among them: nothing, or weights, gradients and optimizer state (FSDP2); with offload
    these wait in host memory while they are not used."""
    replica_launcher: tuple[str, ...] = ("{python}",)
    """The same of a generation and an evaluation, whose replicas may need a Ray cluster around them."""
    trackers: tuple[Tracker, ...] = ()
    """What gets every step's metrics beside `log.jsonl`."""
    env: dict[str, str] = {}
    """Environment variables of every stage."""
    python: dict[StageKind, str] = {}
    """Interpreter of a kind of stage where it is not this one; harness must be installed there too."""
    vllm: dict[str, bool | int | float | str] = {}
    """Arguments of `vllm.LLM`; harness/components/engines/vllm.py lists which."""
    tensor_parallel: int = Field(default=1, gt=0)
    """Devices of one engine, over which its weights are divided."""
    num_replicas: int = Field(default_factory=lambda stated: _one_a_device(stated), gt=0)
    """Engines that generate at a time, and processes that share lm-eval's tasks, these on one device each; where not stated, as many
    as a node's GPUs allow."""
    replicas_on: Literal["node", "ray"] = "node"
    """Where replicas run: processes of this node, or actors of the Ray cluster RAY_ADDRESS names (of this node where it is unset)."""
    replica_env: tuple[dict[str, str], ...] = ()
    """Variables of each replica's own; empty: each sees its own share of the CUDA devices."""
    server: str | None = None
    """Base URL of the server an `openai_api` recipe generates with."""
    peak_tflops: float = Field(gt=0)
    """Of one device, at the training precision: what utilisation is measured against, and estimates are made with."""
    mfu: float = Field(default=0.3, gt=0)
    """Share of `peak_tflops` that estimates assume training and scoring to reach."""
    generate_tokens_per_second: float = Field(gt=0)
    """Of one device and a model of 1e9 parameters; estimates divide it by the model's size."""
    memory_gb: float = Field(gt=0)
    """Of one device, in units of 1e9 bytes; a node's is this times its devices."""

    @model_validator(mode="after")
    def _keeps_secrets_out_of_records(self) -> Self:
        """The stage reads these from its record, so a secret must not stand in them."""
        hidden = sorted({name for one in self.replica_env for name in one if not is_shown(name)})
        if hidden:
            raise ValueError(f"replica_env sets {', '.join(hidden)}; a record would show its value: set it in `env`, for all replicas")
        if self.server is not None and "@" in self.server:
            raise ValueError("server holds a user or password, which a record would show; give the key by ENGINE_API_KEY")
        return self


def recorded(machine: Machine) -> Machine:
    """`machine` as records and bundles may show it: of the variables that are not known to hold no secret, the names alone."""
    return machine.model_copy(update={"env": {name: value if is_shown(name) else NOT_RECORDED for name, value in machine.env.items()}})


def _known_fields(machine: Any) -> Any:
    return {name: value for name, value in machine.items() if name in Machine.model_fields} if isinstance(machine, dict) else machine


RecordedMachine = Annotated[Machine, BeforeValidator(_known_fields)]
"""A machine as a record holds it, which may be older than this version: fields that machines have no more are passed over."""


def is_shown(name: str) -> bool:
    """Whether the variable's value may stand in a record."""
    return name in SHOWN_NAMES or (name.startswith(SHOWN_PREFIXES) and not SECRET_WORDS.search(name))


def _one_a_device(stated: dict[str, Any]) -> int:
    """Engines on the GPUs of a node: as many as `tensor_parallel` allows; one on CPUs."""
    needed = {"num_devices", "num_nodes", "tensor_parallel"}
    if stated.get("device") != "cuda" or not needed <= stated.keys():
        return 1
    return max(int(stated["num_devices"] // stated["num_nodes"] // stated["tensor_parallel"]), 1)


def launcher(machine: Machine, kind: str, python: str) -> list[str]:
    """The words before `-m harness stage DIR` of a stage of a kind, their templates filled in."""
    words = {"train": machine.launcher, "generate": machine.replica_launcher, "evaluate": machine.replica_launcher}.get(kind, ("{python}",))
    known = {"python": python, "num_devices": machine.num_devices, "num_nodes": machine.num_nodes}
    return [part.format(**known, node_devices=machine.num_devices // machine.num_nodes) for part in words]


HEAD_NODE = '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
"""In a shell inside a Slurm job: its first node."""
TORCHRUN = (
    'exec "$0" -m harness.training.launch --nnodes={num_nodes} --nproc-per-node={node_devices} --rdzv-backend=c10d '
    f'--rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="{HEAD_NODE}:29500" "$@"'
)
"""What a shell on each node of a training does, as `srun` starts it: all meet at the first."""
FILE_STAGES: tuple[StageKind, ...] = ("model", "prompts", "preferences", "verdicts")
"""Kinds of stages that use no device."""


def slots_taken(machine: Machine, kind: str) -> int:
    """The slots that a stage of a kind takes, which are never more than there are."""
    unnamed = 1 if kind in FILE_STAGES else machine.slots
    return min({str(named): num for named, num in machine.slots_of.items()}.get(kind, unnamed), machine.slots)


def srun(node: Request) -> tuple[str, ...]:
    """The words before a shell's text that run it once on each node of a job; a node that fails ends the others.

    srun takes neither the cores of sbatch's `--cpus-per-task` nor, on every cluster, its GPUs by itself.
    """
    each = ("--ntasks-per-node=1", f"--cpus-per-task={node.cpus}", f"--gpus-per-node={node.gpus}")
    return ("srun", *each, "--kill-on-bad-exit=1", "bash", "-c")


def on_slurm(machine: Machine, *, name: str, node: Request, train_nodes: int = 1) -> Machine:
    """`machine`, of one node, as the nodes of a Slurm cluster, of which a job that has a whole one asks for `node`.

    A training has `train_nodes` of them. A generation is an array of jobs of one engine and its share of the node each; an evaluation
    has a node, whose devices share its tasks. Stages that use no device ask for a few cores.
    """
    engines = max(node.gpus // machine.tensor_parallel, 1)
    memory_gb = node.memory_gb
    engine = {"gpus": node.gpus // engines, "cpus": max(node.cpus // engines, 1), "memory_gb": memory_gb and memory_gb / engines}
    files = {"gpus": 0, "cpus": min(node.cpus, 8), "memory_gb": memory_gb and min(memory_gb, 64.0), "minutes": min(node.minutes, 240)}
    changes: dict[str, Any] = {
        "name": name,
        "summary": f"Slurm, a job a stage{f', a training on {train_nodes} nodes' if train_nodes > 1 else ''}; {machine.summary}",
        "num_devices": machine.num_devices * train_nodes,
        "num_nodes": train_nodes,
        "slurm": node,
        "slurm_of": {
            "train": node.model_copy(update={"nodes": train_nodes}),
            "generate": node.model_copy(update={**engine, "array": engines}),
            **dict.fromkeys(FILE_STAGES, node.model_copy(update=files)),
        },
    }
    if train_nodes > 1:
        changes |= {"launcher": (*srun(node), TORCHRUN, "{python}"), "mfu": min(machine.mfu, 0.3)}
    return machine.model_copy(update=changes)


def load(name_or_file: str) -> Machine:
    """The machine called `name_or_file` in machines/, or the `machine` of a Python file."""
    path = find(name_or_file, available(), "machine")
    machine = load_attribute(path, "machine")
    if not isinstance(machine, Machine):
        raise RecipeError(f"{path.name}: `machine` is a {type(machine).__name__}, expected a harness.machine.Machine")
    return machine


def with_tracker(machine: Machine, tracker: Tracker | None) -> Machine:
    """`machine` with one more tracker. Raises `MachineError` where it is not installed, which accelerate would pass over."""
    if tracker is None or tracker in machine.trackers:
        return machine
    if find_spec(tracker) is None:
        raise MachineError(f"{tracker} is not installed; pip install 'harness-spin[trackers]'")
    return machine.model_copy(update={"trackers": (*machine.trackers, tracker)})


def with_accelerate(machine: Machine, config: str | Path) -> Machine:
    """`machine` whose trainings start as a file of `accelerate config` says: processes, nodes, and FSDP, which is FSDP2 here.

    Precision, accumulation and wrapping in that file count for nothing: the recipe and harness say them. Under `accelerate launch` a failed
    training ends with 1 whatever its reason. Raises `MachineError` for a file that is none, or that asks for DeepSpeed or Megatron.
    """
    import yaml

    path = Path(config).expanduser().resolve()
    try:
        stated = yaml.safe_load(path.read_bytes())
        kind, processes, nodes = (stated[name] for name in ("distributed_type", "num_processes", "num_machines"))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise MachineError(
            f"{path} is no accelerate configuration ({first_line(error)}); expected a file that `accelerate config` wrote"
        ) from None
    if kind not in ("NO", "MULTI_GPU", "MULTI_CPU", "FSDP"):
        raise MachineError(f"{path} asks for {kind}; expected NO, MULTI_GPU, MULTI_CPU or FSDP: weights are divided by FSDP2 alone")
    offload = kind == "FSDP" and (stated.get("fsdp_config") or {}).get("fsdp_offload_params")
    update = {
        "num_devices": processes,
        "num_nodes": nodes,
        "sharding": "none" if kind != "FSDP" else "fsdp2_offload" if offload else "fsdp2",
        "launcher": ("{python}", "-m", "accelerate.commands.launch", "--config_file", str(path).replace("{", "{{").replace("}", "}}")),
    }
    return machine.model_copy(update=update)


def available() -> dict[str, Path]:
    """{machine name: file} of machines/."""
    return {path.stem.replace("_", "-"): path for path in sorted(MACHINES_DIR.glob("*.py")) if path.stem != "__init__"}


def check(machine: Machine, recipe: Recipe) -> None:
    """Raise `MachineError` where the machine contradicts itself or cannot deal a global batch of `recipe` evenly to its devices."""
    if machine.fork_stages and machine.device == "cuda":
        raise MachineError(f"machine {machine.name!r} forks its stages, which CUDA does not survive; remove fork_stages from it")
    if machine.device == "cuda" and machine.num_devices > 1 and (taken := slots_taken(machine, "train")) < machine.slots:
        told = f"gives a training {taken} of {machine.slots} slots, but it runs on all {machine.num_devices} devices"
        raise MachineError(f"machine {machine.name!r} {told}; remove 'train' from slots_of")
    tunings = {"pretraining": recipe.pretraining, "sft": recipe.sft, **recipe.controls, **recipe.rivals}
    batches = {f"{row}.global_batch_size": tuning.global_batch_size for row, tuning in tunings.items() if tuning}
    for field, batch in {"global_batch_size": recipe.global_batch_size, **batches}.items():
        if batch % machine.num_devices:
            raise MachineError(
                f"{recipe.name}'s {field} of {batch} pairs cannot be divided among the {machine.num_devices} devices of machine "
                f"{machine.name!r}; use a machine whose number of devices divides {batch}"
            )
