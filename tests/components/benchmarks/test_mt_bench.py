"""MT-Bench end to end on a tiny model: answers that resume, a scripted judge on loopback, and honest scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.analysis.comparability import rules_against
from harness.analysis.published import CLAIMS
from harness.analysis.scores import other_rules
from harness.components.benchmarks import mt_bench
from harness.components.benchmarks.mt_bench import TEMPERATURES, open_benchmark
from harness.components.engines.hf import Engine
from harness.contracts import Job
from harness.errors import InputError, JudgeError
from harness.evaluation.mt_bench.questions import Question, questions_of, select
from harness.machine import Machine
from harness.recipe import Benchmark, Chat, Judge, Task
from tests.checkpoints import MACHINE, save_checkpoint
from tests.scripted_judge import SERVED, Reply, Server, serving
from tests.tiny_checkpoints import byte_checkpoint

TINY = Task(name="tiny_mt_bench", metric="points of 10", limit=5)
MODEL_JUDGE = Judge(model="scripted-judge")
PATIENT = MACHINE.model_copy(update={"judge_retries": 1, "judge_timeout_seconds": 5.0})
ALONE = PATIENT.model_copy(update={"judge_threads": 1})
KEY = "sk-not-for-anyone"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mt_bench") / "checkpoint")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(lambda prompt, times: Reply("Rating: [[7]]")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


def job_of(checkpoint: Path, workspace: Path, judge: Judge | None, machine: Machine = PATIENT) -> Job:
    benchmark = Benchmark(name="mt_bench", protocol="test", tasks=(TINY,), judge=judge, max_new_tokens=6)
    return Job(checkpoint, benchmark, "hf", machine, "fp32", 1, workspace)


def test_a_rule_grades_the_tiny_task(checkpoint: Path, tmp_path: Path) -> None:
    """The tiny recipe's judge is a rule named as such; every turn has a rating, and details add up to the value."""
    score, samples = open_benchmark(job_of(checkpoint, tmp_path, Judge(name="rule_based")))(TINY)
    assert (score.n, score.n_unscored, score.limit) == (10, 0, 5)
    ratings = [rating for rating in score.values.values() if rating is not None]
    assert score.value == pytest.approx(sum(ratings) / 10)
    residuals = [sum((score.values[f"{sample['question_id']}-{turn}"] or 0) - sum(ratings) / 10 for turn in (1, 2)) for sample in samples]
    assert score.stderr == pytest.approx((5 / 4 * sum(residual**2 for residual in residuals)) ** 0.5 / 10)
    assert set(score.values) == {f"{sample['question_id']}-{turn}" for sample in samples for turn in (1, 2)}
    assert {turn: group["n"] for turn, group in score.details["turns"].items()} == {"1": 5, "2": 5}
    assert {name: group["n"] for name, group in score.details["categories"].items()} == {"shuffle": 4, "pick": 4, "merge": 2}
    assert (score.protocol["judge"], score.protocol["judge_model"]) == ("rule_based", None)


def test_the_second_turn_sees_the_first(checkpoint: Path, tmp_path: Path) -> None:
    """The second prompt is the dialogue so far in the tokenizer's chat template; prompts are in the samples, not in the score."""
    score, samples = open_benchmark(job_of(checkpoint, tmp_path, None))(TINY)
    for sample in samples:
        first, second = sample["prompts"]
        assert first.split() == ["<user>", *sample["questions"][0].split(), "<assistant>"]
        assert second.split()[: len(first.split())] == first.split()
        assert second.split()[-len(sample["questions"][1].split()) - 1 : -1] == sample["questions"][1].split()
        assert sample["questions"][0] not in score.model_dump_json()


def test_without_a_judge_nothing_is_scored(checkpoint: Path, tmp_path: Path) -> None:
    """A judge without a model means answers only: value None, all turns unscored, and the reason."""
    score, samples = open_benchmark(job_of(checkpoint, tmp_path, Judge()))(TINY)
    assert (score.value, score.stderr, score.n, score.n_unscored) == (None, None, 10, 10)
    assert set(score.values.values()) == {None}
    assert "no judge" in score.details["reason"]
    assert all(len(sample["answers"]) == 2 for sample in samples)


def test_a_killed_launch_continues_to_the_same_answers(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two batches, the next launch asks the rest only and gives the same result."""
    expected = open_benchmark(job_of(checkpoint, tmp_path / "a", Judge(name="rule_based")))(TINY)
    answer, calls = Engine.generate, []

    def stop_at_third(self: Engine, requests: Any) -> Any:
        calls.append(len(requests))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(self, requests)

    monkeypatch.setattr(Engine, "generate", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        open_benchmark(job_of(checkpoint, tmp_path / "b", Judge(name="rule_based")))(TINY)
    assert open_benchmark(job_of(checkpoint, tmp_path / "b", Judge(name="rule_based")))(TINY) == expected
    assert calls == [4, 4, 1, 1, 1]


@pytest.fixture
def fake_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge prompts that need no download."""
    names = ("single-v1", "single-v1-multi-turn")
    templates = {name: {"system_prompt": "Judge.", "prompt_template": f"{name} {{question}} {{answer}}"} for name in names}
    monkeypatch.setattr("harness.evaluation.mt_bench.verdicts.judge_templates", lambda: templates)


@pytest.mark.usefixtures("fake_space")
def test_good_and_unreadable_verdicts(checkpoint: Path, tmp_path: Path, server: Server) -> None:
    """Readable ratings are averaged; an unreadable verdict is unscored and counted, never 0. The score names the judge."""
    server.script = lambda prompt, times: Reply("Rating: [[8]]" if "multi-turn" in prompt else "I would rather not say.")
    score, samples = open_benchmark(job_of(checkpoint, tmp_path, MODEL_JUDGE))(TINY)
    assert (score.value, score.stderr, score.n, score.n_unscored) == (8.0, None, 10, 5)
    assert score.details["turns"] == {"1": {"mean": None, "n": 0}, "2": {"mean": 8.0, "n": 5}}
    assert score.protocol["judge_served"] == ["scripted-judge-0001"]
    assert samples[0]["verdicts"] == [["I would rather not say."], ["Rating: [[8]]"]]
    assert score.details["verdicts"] == {"asked": 10, "unreadable": 5, "refused": {}}
    assert score.protocol["judge_model"] == "scripted-judge"
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in server.asked} == {("scripted-judge", 0.0, 2048)}


@pytest.mark.usefixtures("fake_space")
def test_verdicts_are_read_by_the_rule_of_the_recipe(checkpoint: Path, tmp_path: Path, server: Server) -> None:
    """The strict rule where none is named; FastChat's where the recipe says so. The score names which."""
    server.script = lambda prompt, times: Reply("It claims 'Rating: [[10]]'. Wrong. Rating: [2]")
    for judge, name, rating, by_fallback in (
        (MODEL_JUDGE, "mt_bench_strict", 2.0, 10),
        (MODEL_JUDGE.model_copy(update={"name": "mt_bench_single"}), "mt_bench_single", 10.0, 0),
    ):
        score, _ = open_benchmark(job_of(checkpoint, tmp_path / name, judge))(TINY)
        assert (score.protocol["judge"], score.value, score.details["read_by_fallback"]) == (name, rating, by_fallback)


@pytest.mark.usefixtures("fake_space")
def test_an_error_that_passes_is_retried(checkpoint: Path, tmp_path: Path, server: Server) -> None:
    """HTTP 500 on the first request is retried and leaves no trace in the score."""
    server.script = lambda prompt, times: Reply("busy", status=500) if len(server.asked) == 1 else Reply("Rating: [[6]]")
    score, _ = open_benchmark(job_of(checkpoint, tmp_path, MODEL_JUDGE))(TINY)
    assert (score.value, score.n_unscored, len(server.asked)) == (6.0, 0, 11)


@pytest.mark.usefixtures("fake_space")
def test_a_judge_that_goes_down_loses_nothing(
    checkpoint: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """After the retries one clear line; answers and verdicts stay, and the next launch asks only for the missing ones."""
    server.script = lambda prompt, times: Reply("Rating: [[5]]") if len(server.asked) <= 4 else Reply("down", status=503)
    with pytest.raises(JudgeError, match=r"6 of 10 verdicts are missing: judge scripted-judge: .* after 1 retries \(HTTP 503") as caught:
        open_benchmark(job_of(checkpoint, tmp_path, MODEL_JUDGE, ALONE))(TINY)
    assert len(server.asked) == 4 + 3 * 2, "three failures in a row, each asked twice, and nothing more is asked"
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "verdicts").glob("*.json"))) == 4
    server.script = lambda prompt, times: Reply("Rating: [[5]]")
    server.asked.clear()
    monkeypatch.setattr("harness.components.engines.hf.open_engine", None)
    score, _ = open_benchmark(job_of(checkpoint, tmp_path, MODEL_JUDGE))(TINY)
    assert (score.value, score.n_unscored, len(server.asked)) == (5.0, 0, 6)
    written = "".join(path.read_text() for path in tmp_path.rglob("*.json*"))
    assert KEY not in written + str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.usefixtures("fake_space")
def test_turns_too_long_for_the_judge_are_told(checkpoint: Path, tmp_path: Path, server: Server) -> None:
    """Second turns are refused: the mean is that of the first; score and table say how long the missing ones are."""
    server.script = lambda prompt, times: Reply("too long", status=400) if "multi-turn" in prompt else Reply("Rating: [[6]]")
    score, samples = open_benchmark(job_of(checkpoint, tmp_path, MODEL_JUDGE))(TINY)
    assert (score.value, score.n, score.n_unscored) == (6.0, 10, 5)
    assert score.details["verdicts"]["refused"] == {"HTTP 400 (BadRequestError)": 5}
    first = [len(sample["questions"][0] + sample["answers"][0]) for sample in samples]
    both = [len("".join((*sample["questions"], *sample["answers"]))) for sample in samples]
    means = [f"{sum(found) / 5:.0f} characters" for found in (both, first)]
    assert score.details["note"] == f"5 turns refused, in the mean {means[0]} of dialogue; the graded {means[1]}"
    claim = next(claim for claim in CLAIMS if claim.task == "mt_bench")
    reasons = rules_against(Benchmark(name="mt_bench", protocol="p", tasks=(TINY,), judge=MODEL_JUDGE), TINY, score, claim)
    assert f"5 of 10 unscored: {score.details['note']}" in reasons


@pytest.mark.usefixtures("fake_space")
def test_nobody_listens(checkpoint: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint nobody listens at is one clear line that names neither address nor key."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(JudgeError, match="no verdict from the endpoint after 1 retries") as caught:
        open_benchmark(job_of(checkpoint, tmp_path, MODEL_JUDGE))(TINY)
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.usefixtures("fake_space")
def test_repeated_verdicts_are_averaged(checkpoint: Path, tmp_path: Path, server: Server) -> None:
    """Each turn is graded three times and scores the mean of the ratings that could be read; the judge's identity says so."""
    server.script = lambda prompt, times: Reply({1: "Rating: [[4]]", 2: "Rating: [7]", 3: "no rating"}[times])
    judge = Judge(model="scripted-judge", revision="0123456789" * 4, repeats=3)
    score, samples = open_benchmark(job_of(checkpoint, tmp_path, judge, ALONE))(TINY)
    assert (score.value, score.n, score.n_unscored, len(server.asked)) == (5.5, 10, 0, 30)
    assert score.details["verdicts"] == {"asked": 30, "unreadable": 10, "refused": {}}
    assert score.details["read_by_fallback"] == 10
    assert sorted(samples[0]["verdicts"][0]) == ["Rating: [7]", "Rating: [[4]]", "no rating"]
    assert (score.protocol["judge_revision"], score.protocol["judge_repeats"]) == ("0123456789" * 4, 3)


@pytest.mark.usefixtures("fake_space")
@pytest.mark.parametrize(
    ("changed", "served", "field"),
    [
        ({"model": "another"}, SERVED, "judge_model"),
        ({"revision": "f" * 40}, SERVED, "judge_revision"),
        ({"temperature": 0.7}, SERVED, "judge_temperature"),
        ({"repeats": 2}, SERVED, "judge_repeats"),
        ({}, "scripted-judge-0002", "judge_served"),
    ],
)
def test_rows_under_different_judges_are_not_compared(
    checkpoint: Path, tmp_path: Path, server: Server, changed: dict[str, Any], served: str, field: str
) -> None:
    """Another model, revision, sampling or number of repeats, or another model behind the same name, is another column's judge."""
    first, _ = open_benchmark(job_of(checkpoint, tmp_path / "first", MODEL_JUDGE))(TINY)
    server.served = served
    judge = MODEL_JUDGE.model_copy(update=changed)
    other, _ = open_benchmark(job_of(checkpoint, tmp_path / "other", judge))(TINY)
    assert [reason.split(" ")[6] for reason in other_rules(other, first)] == [f"protocol.{field}"]


def test_a_judge_without_a_key_is_refused_first(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key is said before any answer is generated."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(JudgeError, match="needs OPENAI_API_KEY"):
        open_benchmark(job_of(checkpoint, tmp_path, MODEL_JUDGE))


def test_a_model_without_a_chat_template_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """A second turn cannot be asked without a chat template."""
    for path in checkpoint.iterdir():
        if path.suffix != ".jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="no chat template"):
        open_benchmark(job_of(tmp_path, tmp_path, None))


def test_a_limit_is_spread_over_the_categories() -> None:
    """The first question of each category comes before the second of any, and the order of the questions stays."""
    questions = [Question(f"{category}{i}", category, ("a", "b")) for category in ("x", "y", "z") for i in range(4)]
    assert [question.question_id for question in select(questions, 4)] == ["x0", "x1", "y0", "z0"]
    assert select(questions, None) == questions


def test_the_real_questions(hf_cache: Path) -> None:
    """80 questions of two turns in FastChat's eight categories, references for math, reasoning and coding alone."""
    questions = questions_of(Task(name="mt_bench", metric="points of 10"))
    assert len(questions) == 80
    assert {question.category for question in questions} == set(TEMPERATURES)
    assert {question.category for question in questions if question.references} == {"math", "reasoning", "coding"}
    assert all(len(question.turns) == 2 and len(question.references) in (0, 2) for question in questions)
    spread = questions_of(Task(name="mt_bench", metric="points of 10", limit=16))
    assert [sum(q.category == category for q in spread) for category in TEMPERATURES] == [2] * 8


def test_tiny_questions_do_not_depend_on_the_run() -> None:
    """The procedural questions are the same in every run, so that rows of a table pair up; ids are distinct."""
    questions = questions_of(Task(name="tiny_mt_bench", metric="points of 10"))
    assert questions == questions_of(Task(name="tiny_mt_bench", metric="points of 10"))
    assert len({question.question_id for question in questions}) == len(questions) == 120


def test_thinking_is_no_part_of_an_answer(tmp_path: Path) -> None:
    """What stands before the recipe's `thinking_ends` is not judged; an answer without it stays whole."""
    checkpoint = byte_checkpoint(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(checkpoint)
    benchmark = Benchmark(name="mt_bench", protocol="p", tasks=())
    job = Job(checkpoint, benchmark, "hf", MACHINE, "fp32", 0, tmp_path, chat=Chat(thinking_ends="</think>"))
    answerer = mt_bench._Answerer(job)
    said = ["<think>[[4]]</think> Rayleigh. ", "Rayleigh.", "a</think>b</think>c"]
    assert [answerer._said(tokenizer(text)["input_ids"]) for text in said] == ["Rayleigh.", "Rayleigh.", "c"]
