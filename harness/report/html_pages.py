"""Pages from templates, and the index of a folder of runs and sweeps: what each says about the paper's claims, and where its files are.

The index is made from committed records alone; equal records give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from harness.analysis.claims import overall, summarize
from harness.analysis.run_table import collect, unfinished_notes
from harness.analysis.sweep_table import compare_variants
from harness.analysis.table_schema import Finding
from harness.artifact import RECIPE_FILE, RunDir
from harness.errors import HarnessError, InputError
from harness.files import write_atomic
from harness.report.effects import main_effect, size_text, study_sentence
from harness.report.formatting import shortened, visible
from harness.report.tables import markdown_text
from harness.runs.sweeps import is_sweep

FINDING_FILE = "FINDING.md"
MADE_BY = "Made by `harness index`"
OWN_WORDS = f"Where a run has a {FINDING_FILE}, its first paragraph is that: what its people wrote."
LINKS = (("report", "report.html"), ("tables", "tables/tables.md"), ("JSON", "tables/tables.json"), ("recipe", RECIPE_FILE))


class Entry(NamedTuple):
    """A run or a sweep in the index; `error` says why its numbers could not be read, `words` what its people wrote in FINDING_FILE."""

    name: str
    summary: str
    headline: str
    verdict: str
    numbers: list[str]
    findings: tuple[Finding, ...]
    links: list[tuple[str, str]]
    error: str | None
    words: str = ""


def write_index(folder: Path) -> list[Path]:
    """Write FOLDER/README.md and FOLDER/index.html; return their paths. Raises InputError where there is no folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one that holds runs, such as results")
    page = folder / "README.md"
    if page.is_file() and MADE_BY not in page.read_text(errors="replace"):
        raise InputError(f"{page} was not written by `harness index`, which would replace it; move it away or index another folder")
    paths = sorted(path for path in folder.iterdir() if (path / RECIPE_FILE).exists() or is_sweep(path))
    runs = [_sweep(path, folder) if is_sweep(path) else _run(path, folder) for path in paths]
    write_atomic(folder / "README.md", _markdown(runs).encode())
    write_atomic(folder / "index.html", (render("index.html", runs=runs) + "\n").encode())
    return [folder / "README.md", folder / "index.html"]


def _links(path: Path, folder: Path) -> list[tuple[str, str]]:
    return [(name, quote(f"{path.relative_to(folder)}/{file}")) for name, file in LINKS if (path / file).exists()]


def _sweep(path: Path, folder: Path) -> Entry:
    """A sweep's entry: what its seeds say in one sentence, and how large the effect is over them."""
    links = _links(path, folder)
    try:
        table = compare_variants(path)
    except HarnessError as error:
        return Entry(path.name, "", "", "", [], (), links, str(error).replace(f"{path}/", ""))
    main = main_effect(table)
    numbers = [size_text(main)] if main else []
    verdict = overall(table.findings)
    return Entry(path.name, table.summary, study_sentence(table), verdict, numbers, table.findings, links, None)


def _run(path: Path, folder: Path) -> Entry:
    links = _links(path, folder)
    try:
        table = collect(path)
    except HarnessError as error:
        return Entry(path.name, "", "", "", [], (), links, str(error).replace(f"{path}/", ""))
    summary, main = summarize(table), main_effect(table)
    numbers = [size_text(main), *summary.numbers[1:]] if main else summary.numbers
    numbers = [*numbers, *unfinished_notes(RunDir(path))]
    return Entry(path.name, table.summary, summary.headline, summary.verdict, numbers, table.findings, links, None, _words(path))


def _words(path: Path) -> str:
    """What the run's people wrote about it, one paragraph; nothing where there is none."""
    written = path / FINDING_FILE
    return " ".join(written.read_text().split()) if written.is_file() else ""


def _markdown(runs: Sequence[Entry]) -> str:
    return "\n".join(_lines(runs)).rstrip() + "\n"


def _lines(runs: Sequence[Entry]) -> Iterator[str]:
    yield from ("# Runs", "", f"{MADE_BY}; every number follows from the records in each folder.", OWN_WORDS, "")
    yield from ("| run | in short | numbers |", "|---|---|---|")
    for run in runs:
        numbers = "; ".join(run.numbers) if run.error is None else f"not readable: {run.error}"
        links = ", ".join(f"[{name}]({path})" for name, path in run.links)
        yield f"| **{markdown_text(run.name)}** ({links}) | {markdown_text(run.headline)} | {markdown_text(numbers)} |"
    for run in runs:
        yield from ("", f"## {markdown_text(run.name)}", "", markdown_text(run.summary), "")
        yield from (markdown_text(run.words), "") if run.words else ()
        yield from (f"- **{one.verdict}**: {markdown_text(one.claim)}. {markdown_text('; '.join(one.evidence))}" for one in run.findings)


TEMPLATES = Path(__file__).parent / "templates"


MAX_TASKS = 40
"""Tasks that a filter can choose."""
FILTERS = "\n".join(
    [
        *(f"section:has(#side-{side}:checked) .changed:not(.{side}) {{ display: none; }}" for side in ("gained", "lost")),
        *(f"section:has(#task-{k}:checked) .changed:not(.task-{k}) {{ display: none; }}" for k in range(1, MAX_TASKS + 1)),
    ]
)
"""What a checked radio button hides: a filter that needs no script."""


def render(template: str, **values: Any) -> str:
    """The page. Its style sheet goes in whole, and its policy allows that sheet alone, by hash, and embedded pictures."""
    style = f"{(TEMPLATES / 'report.css').read_text()}{FILTERS}\n"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return _environment().get_template(template).render(style=Markup(style), policy=Markup(policy), **values)


def _environment() -> jinja2.Environment:
    """The template engine: everything is escaped, an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else visible(shortened(value))
