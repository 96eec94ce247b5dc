"""The procedural source: its distribution is the one it documents, and its faults are faults."""

import itertools
import math
import random
from collections import Counter

import pytest

from harness.components.sources import procedural

PROMPTS = ("shuffle a b c d", "pick 2 a b c d e", "merge a b | c d")


def every_response(prompt: str) -> list[str]:
    task = procedural.parse(prompt)
    lengths = range(task.num_items - 1, task.num_items + 2)
    orders = (order for num in lengths for order in itertools.product(task.items, repeat=num))
    return [" ".join(order) for order in orders]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_probabilities_sum_to_one(prompt: str) -> None:
    total = sum(math.exp(procedural.log_prob(prompt, response)) for response in every_response(prompt))
    assert total == pytest.approx(1)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_responses_are_uniform_over_the_valid(prompt: str) -> None:
    rng = random.Random(0)
    num = 200 * procedural.num_valid(prompt)
    counts = Counter(procedural.respond(prompt, rng) for _ in range(num))
    assert len(counts) == procedural.num_valid(prompt)
    assert all(120 < times < 290 for times in counts.values())


def test_samples_are_valid_distinct_and_in_the_vocabulary() -> None:
    examples = procedural.sample("train", 300, 0)
    assert len({example.prompt for example in examples}) == 300
    assert Counter(example.family for example in examples) == dict.fromkeys(procedural.FAMILIES, 100)
    assert all(procedural.is_valid(example.prompt, example.response) for example in examples)
    words = {word for example in examples for text in example[:2] for word in text.split(" ")}
    assert words <= set(procedural.VOCABULARY)
    assert len(set(procedural.VOCABULARY)) == len(procedural.VOCABULARY)


def test_a_smaller_sample_is_a_prefix_and_seeds_differ() -> None:
    assert procedural.sample("test", 60, 1)[:30] == procedural.sample("test", 30, 1)
    assert procedural.sample("test", 30, 1) != procedural.sample("test", 30, 2)


def test_splits_share_no_prompt() -> None:
    prompts = [{example.prompt for example in procedural.sample(split, 2000, 0)} for split in procedural.SPLITS]
    assert not any(left & right for left, right in itertools.combinations(prompts, 2))


@pytest.mark.parametrize(
    ("prompt", "response", "fault"),
    [
        ("shuffle a b c d", "d c b a", None),
        ("shuffle a b c d", "d c b b", "b is repeated"),
        ("shuffle a b c d", "d c b", "too few items"),
        ("shuffle a b c d", "d c b a e", "e is not in the list"),
        ("pick 2 a b c d e", "e a", None),
        ("pick 2 a b c d e", "e a b", "too many items"),
        ("merge a b | c d", "a c b d", None),
        ("merge a b | c d", "b c a d", "b comes before a"),
        ("merge a b | c d", "", "too few items"),
    ],
)
def test_fault(prompt: str, response: str, fault: str | None) -> None:
    assert procedural.fault(prompt, response) == fault
    assert procedural.is_valid(prompt, response) == (fault is None)
    assert math.isfinite(procedural.log_prob(prompt, response)) == (fault is None)
    assert (procedural.grade(prompt, response) == 10) == (fault is None)


def test_grade_falls_by_two_for_each_fault() -> None:
    assert [procedural.grade("shuffle a b c d", text) for text in ("a b c d", "a b c", "a b b", "")] == [10, 8, 6, 2]


def test_noise_spoils_the_stated_share_of_responses() -> None:
    examples = procedural.noisy(procedural.sample("train", 1000, 0), 0.5, 0)
    share = sum(procedural.is_valid(example.prompt, example.response) for example in examples) / 1000
    assert share == pytest.approx(0.5, abs=0.05)
    assert procedural.noisy(examples, 0.0, 0) == examples


def test_corruptions_are_invalid_distinct_and_repeatable() -> None:
    for example in procedural.sample("test", 60, 0):
        wrong = procedural.corruptions(example.prompt, example.response, random.Random(3), 3)
        assert wrong == procedural.corruptions(example.prompt, example.response, random.Random(3), 3)
        assert len(set(wrong)) == 3
        assert not any(procedural.is_valid(example.prompt, text) for text in wrong)


def test_a_foreign_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="no family 'sort'"):
        procedural.parse("sort a b")
