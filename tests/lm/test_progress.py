"""Long work shows that it moves: a bar on a terminal, a plain line now and then elsewhere, and never in between."""

from __future__ import annotations

import io
import re

import pytest

from harness.lm import progress as progresses
from harness.lm.progress import progress


class Clock:
    """Time that passes when told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progresses.time, "monotonic", clock.monotonic)
    return clock


def test_plain_lines_come_seldom_and_say_how_long(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is a line every 15 s and one at the end, with items, rate and time left, on stderr alone."""
    with progress("generate", 100, "responses") as advance:
        for _ in range(100):
            clock.now += 1.0
            advance(1)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 100 // 15 + 1
    assert lines[0] == "  generate: 15/100 responses, 1.0/s, 85 s left"
    assert lines[-1] == "  generate: 100/100 responses, 1.0/s, 0 s left"


def test_work_done_at_once_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """What was already there when the work began, or came in one step, needs no line."""
    with progress("generate", 4, "responses") as advance:
        advance(4)
    assert capsys.readouterr().err == ""


def test_plain_lines_have_no_control_characters(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A log file stays readable: no carriage returns, no colours."""
    with progress("train", 2, "steps") as advance:
        for _ in range(2):
            clock.now += 20.0
            advance(1)
    assert re.fullmatch(r"[\x20-\x7e\n]+", capsys.readouterr().err)


def test_terminal_shows_a_bar_with_number_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a bar moves in place, with items, rate and time left, and is gone when the work is."""
    stream = Terminal()
    monkeypatch.setattr(progresses.sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress("train", 8, "steps") as advance:
        advance(8)
    shown = stream.getvalue()
    assert "train" in shown
    assert "8/8" in shown
    assert "steps" in shown
    assert "/s" in shown
    assert "\x1b[" in shown


def test_stages_side_by_side_say_who_they_are(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, too, a stage that runs beside others prints plain lines that begin with its path."""
    terminal = Terminal()
    monkeypatch.setattr(progresses.sys, "stderr", terminal)
    monkeypatch.setattr(progresses, "_beside", [])
    progresses.side_by_side("iter0/train")
    with progress("train", 2, "steps") as advance:
        clock.now += 20
        advance(1)
    assert terminal.getvalue() == "  iter0/train train: 1/2 steps, 0.1/s, 20 s left\n"
