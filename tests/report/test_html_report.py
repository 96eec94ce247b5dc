"""The page says at a glance whether SPIN helped, loads nothing, runs nothing, and shows every text as text."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.analysis.scores import load_scores
from harness.analysis.table_schema import ResultTable
from harness.artifact import RunDir, read_recipe
from harness.files import dump, write_atomic
from harness.recipe import Task, replace
from harness.report.formatting import LIMIT, shortened, visible
from harness.report.tables import collect
from tests.reported_runs import HOSTILE, write_reported_run
from tests.synthetic_runs import Values, questions, small_recipe, write_run

pytest.importorskip("matplotlib", reason="needs the report extra's matplotlib")
from harness import paper
from harness.analysis.claims import summarize
from harness.errors import InputError
from harness.report import plots
from harness.report.evidence import gather
from harness.report.html_pages import TEMPLATES
from harness.report.html_report import DARK, to_html, write_report
from tests import ROOT

CHECK = ROOT / "tests/browser/check.mjs"
AXE = os.environ.get("AXE_PATH")
"""axe-core's axe.min.js (npm install axe-core); never part of this repository."""


class Page(HTMLParser):
    """The tags, text and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_reported_run(tmp_path_factory.mktemp("run") / "a", small_recipe(claims="zephyr-7b-sft-full"))
    write_report(path)
    return path


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return (run / "report.html").read_text()


def headline(table: ResultTable) -> str:
    """The first words of a page that has the verdicts of `table`."""
    return summarize(table).headline


def test_page_is_self_contained(html: str) -> None:
    """A strict policy, no script, nothing to load: pictures are embedded and links stay on the page."""
    page = Page(html)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "link", "form"} == set()
    for _, attrs in page.tags:
        assert str(attrs.get("src", "data:")).startswith("data:image/svg+xml;base64,") or "src" not in attrs
        assert str(attrs.get("href", "#")).startswith("#")
        assert not any(name.startswith("on") or name == "style" for name in attrs)


def test_hostile_responses_are_text(html: str) -> None:
    """Script, image, closing tags and Markdown show as they were written; bidi and control characters show as their numbers."""
    text = Page(html).text
    for response in HOSTILE[:4]:
        assert response in text
    assert not re.search(r"<(script|img src=x|b>bold)", html)
    assert "safe [U+202E]txet desrever[U+202C] [U+2066]isolated[U+2069] [U+001B][31mred[U+0007] nul[U+0000] half [U+D800]" in text
    assert "\u202e" not in html


def test_text_is_kept_whole_or_said_to_be_cut() -> None:
    """Accents, other scripts and joined emoji stay; a long text says how much is missing."""
    assert visible("déjà 漢字 שלום 👩\u200d💻\n\tx") == "déjà 漢字 שלום 👩\u200d💻\n\tx"
    assert shortened("x" * (LIMIT + 5)).endswith("x [... 5 more characters]")


def test_page_holds_every_part(html: str) -> None:
    """Verdicts, scores with their files, published numbers, curves, responses of every opponent, deviations, audit, provenance, cost."""
    page = Page(html)
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert {"claims", "scores", "differences", "published", "training", "responses", "deviations", "audit", "provenance", "cost"} <= ids
    expected = (
        "supported", "iter1/eval/open_llm/scores/gsm8k.json", "paper/leaderboard", "for iter1, ended by stop", "rated 7", "unscored",
        "double_bos", "fails, accepted by the recipe", "real.lengths.mean", "<s><script>alert(1)</script>",
        "the text names none; the release pins this commit", "c0ffeec0ffee with local",
    )  # fmt: skip
    for text in expected:
        assert text in page.text, text
    titles = " ".join(str(attrs["alt"]) for tag, attrs in page.tags if tag == "img")
    for title in (
        "Difference from SFT",
        "gsm8k",
        "mt_bench by category, points of 10",
        "Loss, nats a pair",
        "Margin",
        "Rewards",
        "log p(real)",
        "Lengths",
    ):
        assert title in titles


def test_headline_follows_the_interval(tmp_path: Path) -> None:
    """Above 0 helped, around 0 noise, below 0 harm; a control that gains more is part of the headline."""

    def table(name: str, better: dict[str, str]) -> ResultTable:
        def values(row: str, task: Task) -> Values:
            return questions(better.get(row, row), task)

        return collect(write_run(tmp_path / name, small_recipe(), values))

    assert headline(table("a", {})) == "SPIN helped"
    assert headline(table("b", {"iter1": "sft"})) == "No gain beyond noise"
    assert headline(table("c", {"sft": "iter1", "iter1": "sft"})) == "SPIN did harm"
    assert headline(table("d", {"control": "iter1", "iter1": "iter0", "iter0": "sft"})) == "SPIN helped, but less than further SFT"


def test_equal_records_give_equal_bytes(run: Path, html: str, tmp_path: Path) -> None:
    """The page is made again byte for byte in another directory, and a plot in every format."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(run, copy)
    assert write_report(copy).read_text() == html
    drawn = plots.plots(collect(copy), gather(RunDir(copy), read_recipe(copy)))
    plot = next(plot for plot in drawn if plot.name == "headline")
    first = {path.name: path.read_bytes() for path in plots.write(plot, tmp_path)}
    assert set(first) == {"headline.svg", "headline.png", "headline.pdf"}
    assert {path.name: path.read_bytes() for path in plots.write(plot, tmp_path)} == first


def test_report_from_committed_records_alone(run: Path, tmp_path: Path) -> None:
    """Without prompts, responses, samples and audits there is still a page, and it says what is not here."""
    copy = tmp_path / "committed"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("responses", "samples", "prompts.jsonl", "audit.json"))
    text = Page(to_html(copy, load_scores(copy), collect(copy), gather(RunDir(copy), read_recipe(copy)))).text
    assert "Responses and samples are not committed and are not here." in text
    assert "No training stage of this run left an audit." in text
    assert "SPIN helped" in text


def test_evidence_is_what_the_logs_say(run: Path) -> None:
    """Gaps are the policy's less the margin before, the policy's after; lengths count every response; curves keep both ends."""
    found = gather(RunDir(run), read_recipe(run))
    assert found.gaps[0].before == pytest.approx(2.0)
    assert found.gaps[0].after == pytest.approx(2.0 + sum(range(10, 20)) / 10 / 20)
    assert [(one.name, sum(one.counts)) for one in found.lengths] == [("real", 12), ("iter0: by sft", 12), ("iter1: by iter0", 12)]
    assert [answer.by for answer in found.samples[0].answers] == ["real", "sft", "iter0"]
    loss = next(one for one in found.curves if (one.row, one.quantity) == ("iter0", "loss"))
    assert (loss.steps[0], loss.steps[-1], len(loss.values)) == (0, 19, 20)


def test_damaged_audit_is_one_line(run: Path, tmp_path: Path) -> None:
    """An audit that does not hold checks is named, with what to do."""
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy/iter0/train/audit.json").write_text('{"checks": [{"name": "double_bos"}]}')
    with pytest.raises(InputError, match=r"train/audit\.json is not an audit"):
        gather(RunDir(tmp_path / "copy"), read_recipe(run))


def test_unfinished_run_has_a_page(tmp_path: Path) -> None:
    """Nothing evaluated, nothing trained: the page says so instead of failing."""
    recipe = replace(small_recipe(), name="empty", summary=HOSTILE[1])
    write_atomic(tmp_path / "recipe.json", dump(recipe))
    html = to_html(tmp_path, load_scores(tmp_path), collect(tmp_path), gather(RunDir(tmp_path), recipe))
    assert "Not tested yet" in html
    assert "No training log is here." in html


def test_page_answers_the_first_questions(html: str) -> None:
    """Did it help, by how much of the paper's gain, what cannot be compared and why, which questions changed sides: in this order."""
    text = " ".join(Page(html).text.split())
    marks = ("SPIN helped", "no share of the paper's +3.98", "What the words mean", "Size of the effect", "Changed questions")
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert "judge: ours" in text
    assert re.search(r"gsm8k: \d+ better, \d+ worse", text)
    assert re.search(r"kl: \d+ better, 0 worse", text)  # iterations come closer in kl, of which less is better


def test_colours_of_marks_have_contrast() -> None:
    """Every colour a plot uses stands out by 3:1 from the page, in the light and in the dark theme; inks by 4.5:1."""
    marks = {plots.SFT, plots.CONTROL, plots.PAPER, *plots.ITERATIONS}
    assert set(DARK) == {*marks, plots.INK, plots.GRID}
    assert min(contrast(colour, "#ffffff") for colour in marks) >= 3
    assert min(contrast(DARK[colour], "#14181e") for colour in marks) >= 3
    assert min(contrast(plots.INK, "#ffffff"), contrast(DARK[plots.INK], "#14181e")) >= 4.5
    assert "--page: #fff" in (TEMPLATES / "report.css").read_text()
    assert "--page: #14181e" in (TEMPLATES / "report.css").read_text()


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours."""
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of '#rrggbb'."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_study_has_a_page(tmp_path: Path) -> None:
    """A sweep's page: the sentence, the claims, a point a seed, every difference seed by seed, its runs; the same bytes again."""
    shutil.copytree(ROOT / "results/tiny-study", tmp_path / "study", ignore=shutil.ignore_patterns("tables"))
    page = write_report(tmp_path / "study", tmp_path / "plots")
    first = page.read_text()
    text = Page(first).text
    assert "5 seeds: SPIN (iter2) is better than its SFT model on each" in text
    for words in ("more epochs at iteration 0", "hinge iter2 - iter2", "seed 4", "iter2 against sft, question by question"):
        assert words in text
    assert "tiny-t-spin-seed4" in text
    assert "Mean over tasks: dots are seeds" in first
    assert (tmp_path / "plots/seeds.svg").exists()
    assert write_report(tmp_path / "study").read_text() == first
    assert len(first) < 2 * 2**20


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("node")), reason="needs chromium and node")
def test_page_in_a_browser(run: Path) -> None:
    """From disk, at 375, 768 and 1440 pixels, light and dark: no message, request, dialog, overflow or cut table; axe-core finds nothing.

    The filter of changed questions leaves those that became better, or worse, and needs no script; arrow keys move it, Enter opens a
    score's facts and Escape closes them.
    """
    command = ["node", str(CHECK), str(run / "report.html"), AXE or "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["console"], found["requests"], found["dialogs"]) == ([], [], 0)
    assert [(page["width"], page["scheme"]) for page in found["pages"]] == [(w, s) for w in (375, 768, 1440) for s in ("light", "dark")]
    for page in found["pages"]:
        assert page["overflow"] <= 0, page
        assert page["cut"] == [], page
        assert page["violations"] == []
        every, gained, lost, of_task = page["filtered"]
        assert every == gained + lost
        assert 0 < of_task < gained
        assert page["keys"] == {"filter": ["side-gained", gained], "opened": 1, "closed": True}


def test_the_papers_own_errors_and_gaps_are_shown_beside_its_numbers(html: str, tmp_path: Path) -> None:
    """A run set beside the paper's numbers says which of them are misprints and what no source gives; another model's run does not."""
    text = Page(html).text
    for misprint in paper.MISPRINTS:
        assert misprint.what in text
    for gap in paper.NOT_RECOVERABLE:
        assert gap.what in text
    write_report(write_reported_run(tmp_path, small_recipe()))
    assert paper.MISPRINTS[0].what not in Page((tmp_path / "report.html").read_text()).text
