"""The machine file's requests reach sbatch."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import machine as machines
from harness.artifact import RunDir
from harness.errors import MachineError
from harness.machine import Request
from harness.runs.slurm import submission
from harness.runs.slurm.following import Jobs
from tests.runs.slurm import CLUSTER, PATHS, STAGES


def test_requests_reach_sbatch(recorded: Path, tmp_path: Path) -> None:
    """Each kind of stage has its own request, waits for its inputs' jobs, and comes back to the queue at its limit."""
    train = Request(nodes=2, gpus=8, cpus=64, memory_gb=512, minutes=1440, partition="long", account="spin", options={"qos": "low"})
    machine = CLUSTER.model_copy(update={"slurm": Request(gpus=1, cpus=8, minutes=1), "slurm_of": {"train": train}})
    Jobs(list(STAGES.values()), RunDir(tmp_path / "run"), machine, lambda _: None).submit()
    number = str(PATHS.index("iter0/train") + 1)
    options = set((recorded / number).read_text().splitlines())
    after = sorted(PATHS.index(path) + 1 for path in STAGES["iter0/train"].inputs.values())
    wanted = ["nodes=2", "gpus-per-node=8", "cpus-per-task=64", "mem=512000M", "time=1440", "partition=long", "account=spin", "qos=low"]
    assert {f"#SBATCH --{option}" for option in [*wanted, "requeue", "signal=B:USR2@120", "kill-on-invalid-dep=yes"]} <= options
    dependency = next(line for line in options if "--dependency=" in line).split("afterok:")[1].split(",")[0]
    assert sorted(map(int, dependency.split(":"))) == after
    first = (recorded / "1").read_text()
    assert "#SBATCH --dependency=singleton" in first
    assert "#SBATCH --signal=B:USR2@15" in first  # a quarter of a minute
    assert "\nexec " in first  # Python in the shell's place, which the signal reaches
    assert "srun" not in first


def test_refused_request_names_the_stage(recorded: Path, tmp_path: Path) -> None:
    """What sbatch says is shown with the stage and what to correct."""
    (recorded / "bin/sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: long' >&2; exit 1\n")
    with pytest.raises(MachineError, match=r"Slurm refuses the job of sft/model: .*; correct the request"):
        Jobs(list(STAGES.values()), RunDir(tmp_path / "run"), CLUSTER, lambda _: None).submit()


def test_a_stage_sees_the_devices_of_its_job() -> None:
    """A generation on two of eight GPUs has two replicas, or one of two GPUs; a training has what the launcher starts."""
    machine = machines.load("a100x8").model_copy(update={"slurm": Request(gpus=2, minutes=1)})
    generate, train = STAGES["iter0/generate"], STAGES["iter0/train"]
    assert submission.within(machine, generate, Request(gpus=2, minutes=1)).num_replicas == 2
    parallel = machine.model_copy(update={"tensor_parallel": 2})
    assert submission.within(parallel, generate, Request(gpus=2, minutes=1)).num_replicas == 1
    assert submission.within(machine, train, Request(gpus=2, minutes=1)) == machine


def test_a_generation_is_an_array_before_its_own_job(recorded: Path, tmp_path: Path) -> None:
    """Eight jobs of one GPU each; its own job waits until they have ended, well or not, and what reads the responses waits for that."""
    share = Request(gpus=1, cpus=8, minutes=60, array=8)
    machine = CLUSTER.model_copy(update={"slurm_of": {"generate": share}})
    (tmp_path / "run").mkdir()
    jobs = Jobs(list(STAGES.values()), RunDir(tmp_path / "run"), machine, lambda _: None)
    jobs.submit()
    array, own = int(jobs.jobs["iter0/generate"].number) - 1, jobs.jobs["iter0/generate"].number
    options = (recorded / str(array)).read_text()
    assert "#SBATCH --array=0-7%8" in options
    assert "#SBATCH --gpus-per-node=1" in options
    assert "singleton" not in options  # the tasks of an array have one name
    inputs = ":".join(jobs.jobs[path].number for path in STAGES["iter0/generate"].inputs.values())
    assert f"#SBATCH --dependency=afterok:{inputs}\n" in options
    assert f"#SBATCH --dependency=afterok:{inputs},afterany:{array},singleton\n" in (recorded / own).read_text()
    train = (recorded / jobs.jobs["iter0/train"].number).read_text()
    assert own in train.split("--dependency=afterok:")[1].split(",")[0].split(":")


@pytest.mark.parametrize(("name", "num_nodes"), [("slurm-a100x8", 1), ("slurm-h100x8", 1), ("slurm-a100x8-two-nodes", 2)])
def test_shipped_clusters_ask_for_what_a_stage_uses(recorded: Path, tmp_path: Path, name: str, num_nodes: int) -> None:
    """A training has whole nodes, an evaluation one, an engine of a generation one GPU, and stages without a device none."""
    (tmp_path / "run").mkdir()
    machine = machines.load(name)
    jobs = Jobs(list(STAGES.values()), RunDir(tmp_path / "run"), machine, lambda _: None)
    jobs.submit()
    scripts = {path: (recorded / job.number).read_text() for path, job in jobs.jobs.items()}
    gpus = {path: script.partition("--gpus-per-node=")[2][:1] for path, script in scripts.items()}
    assert gpus == {path: {"train": "8", "evaluate": "8", "generate": "1"}.get(stage.kind, "") for path, stage in STAGES.items()}
    assert {path for path, script in scripts.items() if f"--nodes={num_nodes}\n" not in script} == (
        set() if num_nodes == 1 else {path for path, stage in STAGES.items() if stage.kind != "train"}
    )
    assert "--array=0-7%8\n" in (recorded / str(int(jobs.jobs["iter0/generate"].number) - 1)).read_text()
    inside = submission.within(machine, STAGES["iter0/generate"], submission.request_of(STAGES["iter0/generate"], machine))
    assert (inside.num_nodes, inside.num_devices, inside.num_replicas) == (1, 1, 1)


OWN = """
from harness.machine import Request, load, on_slurm

node = Request(gpus=4, cpus=32, memory_gb=256, minutes=720, partition="gpu", account="lab", options={"constraint": "a100"})
machine = on_slurm(load("a100x4"), name="mine", node=node, train_nodes=2)
"""


def test_own_cluster_is_a_few_lines(recorded: Path, tmp_path: Path) -> None:
    """Partition, account and further options stand in every job's script."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "run").mkdir()
    machine = machines.load(str(tmp_path / "mine.py"))
    assert (machine.num_devices, machine.num_nodes) == (8, 2)
    Jobs(list(STAGES.values()), RunDir(tmp_path / "run"), machine, lambda _: None).submit()
    scripts = [set(path.read_text().splitlines()) for path in recorded.glob("[0-9]*")]
    assert len(scripts) == len(STAGES) + 1
    for lines in scripts:
        assert {f"#SBATCH --{option}" for option in ("partition=gpu", "account=lab", "constraint=a100")} <= lines
