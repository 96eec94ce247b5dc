"""Every check of the project: `nox` runs them all, `nox -s tests` one. The sessions share one environment, installed once."""

from pathlib import Path

import nox

nox.options.reuse_existing_virtualenvs = True
nox.options.stop_on_first_error = True
ENVIRONMENT = ".nox/harness"


def install(session: nox.Session) -> None:
    """The project in place, on the CPU build of torch."""
    session.install("-q", "-e", ".[cpu,smollm2,report,dev]")


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
