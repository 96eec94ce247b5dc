"""A Slurm of one node with two CPUs on this machine, for as long as a test takes: munged, slurmctld and slurmd in a folder of their own.

Needs Debian's packages slurm-wlm and munge, and root. Nothing of it touches /etc.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ctld}
SlurmdPort={slurmd}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldDebug=debug2
SlurmdDebug=debug2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0
KillWait=2
MinJobAge=86400
ReturnToService=2
SlurmdTimeout=20
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    """Whether Slurm and munge are here, and this is root."""
    return os.getuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


class Cluster:
    """A running Slurm: `env` is what its commands need, and `slurmd` can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: Mapping[str, str] = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons and wait until the node is idle."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        ports = {"ctld": _free_port(), "slurmd": _free_port()}
        (self.folder / "slurm.conf").write_text(CONF.format(host=socket.gethostname().split(".")[0], folder=self.folder, **ports))
        key = self.folder / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(128))
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start("munged", "--foreground", "--force", *(f"--{option}={self.folder}/munge.{end}" for option, end in files.items()))
        _wait_for(lambda: (self.folder / "munge.socket").exists(), "munged", self.folder)
        self._start("slurmctld", "-D")
        self.start_slurmd()

    def start_slurmd(self) -> None:
        """Start the node's daemon, and wait until jobs can run."""
        self._start("slurmd", "-D")
        _wait_for(lambda: self.call("sinfo", "--noheader", "--format=%T").strip() in ("idle", "mixed", "allocated"), "slurmd", self.folder)

    def kill(self, name: str) -> None:
        """SIGKILL to a daemon."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def call(self, *command: str) -> str:
        """What a Slurm command prints; empty where it fails."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60).stdout

    def stop(self) -> None:
        """Cancel what runs and end the daemons, the last started first."""
        self.call("scancel", "--user=root")
        for _ in range(100):
            if not self.call("squeue", "--noheader"):
                break
            time.sleep(0.2)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, name: str, *options: str) -> None:
        program = shutil.which(name)
        assert program is not None
        with open(self.folder / f"{name}.out", "ab") as out:
            self._daemons[name] = subprocess.Popen([program, *options], env=self.env, stdout=out, stderr=out, stdin=subprocess.DEVNULL)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster in `folder`, ended afterwards."""
    with ExitStack() as stack:
        cluster = Cluster(folder)
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(is_true: Callable[[], bool], what: str, folder: Path) -> None:
    for _ in range(300):
        if is_true():
            return
        time.sleep(0.1)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted([*folder.glob("*.log"), *folder.glob("*.out")]))
    raise AssertionError(f"{what} did not start:\n{logs}")
