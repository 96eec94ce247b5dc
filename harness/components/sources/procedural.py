"""A procedural instruction source whose true distribution is known exactly.

Every text is a sequence of words separated by single spaces, and every word is in ``VOCABULARY``. A prompt names its
family and the items; the response is drawn *uniformly* from all valid responses, of which there are many:

========  ===========================  ============================================  ===========================
family    prompt                       valid responses                               how many
========  ===========================  ============================================  ===========================
shuffle   ``shuffle b f c a``          every order of the items, each exactly once   ``n!``
pick      ``pick 3 b f c a e``         ordered choices of k different items          ``n! / (n - k)!``
merge     ``merge b f c | a e``        interleavings that keep the order within      ``(n + m)! / (n! m!)``
                                       each of the two lists
========  ===========================  ============================================  ===========================

The items of a prompt are distinct letters. Hence ``log p(response | prompt) = -log(number of valid responses)`` nats
for a valid response and ``-inf`` for any other, and the probability that a model gives to invalid responses is a
lower bound of its total variation distance from the source.

The split of a prompt is a hash of its text, so train, validation and test never share a prompt. The split ``pretrain``
is ``train`` with half of the responses corrupted: what a base model reads before it is fine-tuned.
"""

import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from harness.contracts import Demonstration, Preference
from harness.errors import InputError, suggest
from harness.recipe import PromptSource

VERSION = 1

LETTERS = tuple("abcdefghijklmnopqrst")
DIGITS = tuple("234")
BAR = "|"
FAMILIES = ("shuffle", "pick", "merge")
VOCABULARY = (*FAMILIES, *DIGITS, BAR, *LETTERS)
"""Every word of every prompt and response; a tokenizer adds its own special tokens to these."""

SPLITS = {"test": range(0, 2), "validation": range(2, 3), "train": range(3, 10)}
"""Which values of ``bucket`` belong to a split."""

PRETRAIN_NOISE = 0.5
"""The share of the split ``pretrain`` whose responses are corrupted."""

SHUFFLE_ITEMS = (4, 6)
PICK_ITEMS = (5, 7)
PICK_COUNT = (2, 4)
MERGE_ITEMS = (2, 3)
"""Smallest and largest number of items: of the list, of the list, of the choice, and of each of the two lists."""


class Example(NamedTuple):
    """A prompt with one response drawn from the true distribution."""

    prompt: str
    response: str
    family: str


class Task(NamedTuple):
    """A parsed prompt: its lists of items, and how many items a response must have."""

    family: str
    lists: tuple[tuple[str, ...], ...]
    num_items: int

    @property
    def items(self) -> tuple[str, ...]:
        """All items of the prompt, in its order."""
        return tuple(item for part in self.lists for item in part)


def parse(prompt: str) -> Task:
    """Read a prompt; ``ValueError`` when no family of the source writes it."""
    family, *words = prompt.split(" ")
    if family == "shuffle":
        return Task(family, (tuple(words),), len(words))
    if family == "pick":
        return Task(family, (tuple(words[1:]),), int(words[0]))
    if family == "merge":
        bar = words.index(BAR)
        return Task(family, (tuple(words[:bar]), tuple(words[bar + 1 :])), len(words) - 1)
    raise ValueError(f"no family {family!r}; there are {', '.join(FAMILIES)}")


def bucket(prompt: str) -> int:
    """The hash of a prompt, 0 to 9, that decides its split."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 10


def sample(split: str, num: int, seed: int) -> list[Example]:
    """``num`` examples with distinct prompts, the families in turn; a smaller ``num`` gives a prefix."""
    rng = random.Random(f"{split} {seed}")
    seen: set[str] = set()
    examples: list[Example] = []
    while len(examples) < num:
        prompt = _prompt(FAMILIES[len(examples) % len(FAMILIES)], rng)
        if prompt not in seen and bucket(prompt) in SPLITS[split]:
            seen.add(prompt)
            examples.append(Example(prompt, respond(prompt, rng), parse(prompt).family))
    return examples


def noisy(examples: list[Example], share: float, seed: int) -> list[Example]:
    """The examples with about this share of the responses corrupted: the text a base model is pretrained on."""
    rng = random.Random(f"noise {seed}")
    return [_spoil(example, rng) if rng.random() < share else example for example in examples]


def _spoil(example: Example, rng: random.Random) -> Example:
    """The same prompt with an invalid response."""
    return example._replace(response=corruptions(example.prompt, example.response, rng, 1)[0])


def _prompt(family: str, rng: random.Random) -> str:
    """A random prompt of a family."""
    if family == "merge":
        left, right = (rng.randint(*MERGE_ITEMS) for _ in range(2))
        items = rng.sample(LETTERS, left + right)
        return " ".join([family, *items[:left], BAR, *items[left:]])
    sizes = SHUFFLE_ITEMS if family == "shuffle" else PICK_ITEMS
    items = rng.sample(LETTERS, rng.randint(*sizes))
    count = [str(rng.randint(*PICK_COUNT))] if family == "pick" else []
    return " ".join([family, *count, *items])


def respond(prompt: str, rng: random.Random) -> str:
    """One draw from the true distribution of responses to a prompt."""
    task = parse(prompt)
    if task.family != "merge":
        return " ".join(rng.sample(task.items, task.num_items))
    left, right = (iter(part) for part in task.lists)
    turns = rng.sample([True] * len(task.lists[0]) + [False] * len(task.lists[1]), task.num_items)
    return " ".join(next(left if turn else right) for turn in turns)


def num_valid(prompt: str) -> int:
    """How many responses are valid."""
    task = parse(prompt)
    if task.family == "merge":
        return math.comb(task.num_items, len(task.lists[0]))
    return math.perm(len(task.items), task.num_items)


def log_prob(prompt: str, response: str) -> float:
    """The true log probability of a response, in nats."""
    return -math.log(num_valid(prompt)) if is_valid(prompt, response) else -math.inf


def faults(prompt: str, response: str) -> list[str]:
    """What is wrong with a response, one entry for each item missing, too many, foreign, repeated or out of order."""
    task = parse(prompt)
    words = response.split(" ") if response else []
    found = [f"{word} is not in the list" for word in words if word not in task.items]
    for word, times in Counter(words).items():
        found += [f"{word} is repeated"] * (times - 1 if word in task.items else 0)
    found += ["too few items"] * (task.num_items - len(words)) + ["too many items"] * (len(words) - task.num_items)
    return found + list(_disorder(task, words))


def _disorder(task: Task, words: list[str]) -> Iterator[str]:
    """For a merge: each pair of neighbours of a list that a response has in the wrong order."""
    if task.family != "merge":
        return
    for part in task.lists:
        for first, second in itertools.pairwise(part):
            if first in words and second in words and words.index(first) > words.index(second):
                yield f"{second} comes before {first}"


def fault(prompt: str, response: str) -> str | None:
    """The first thing wrong with a response, or None."""
    return next(iter(faults(prompt, response)), None)


def is_valid(prompt: str, response: str) -> bool:
    """Whether the true distribution can give this response."""
    return fault(prompt, response) is None


def grade(prompt: str, response: str) -> int:
    """10 for a valid response, 2 less for each fault, never below 1."""
    return max(1, 10 - 2 * len(faults(prompt, response)))


def corruptions(prompt: str, response: str, rng: random.Random, num: int) -> list[str]:
    """``num`` different invalid responses, each one small change away from a valid one."""
    task = parse(prompt)
    found: list[str] = []
    while len(found) < num:
        changed = " ".join(_change(task, response.split(" "), rng))
        if changed not in found and not is_valid(prompt, changed):
            found.append(changed)
    return found


def _change(task: Task, words: list[str], rng: random.Random) -> list[str]:
    """A copy of the words with an item repeated, replaced, left out or added, or two items exchanged."""
    kinds = ("repeat", "replace", "leave out", "add") + ("exchange",) * 4 * (task.family == "merge")
    kind, (here, there) = rng.choice(kinds), rng.sample(range(len(words)), 2)
    words = list(words)
    if kind == "repeat":
        words[here] = words[there]
    elif kind == "replace":
        words[here] = rng.choice(LETTERS)
    elif kind == "leave out":
        del words[here]
    elif kind == "add":
        words.insert(here, rng.choice(task.items))
    else:
        words[here], words[there] = words[there], words[here]
    return words


def load(spec: PromptSource) -> list[Demonstration]:
    """``num_prompts`` rows of ``spec.split``, drawn with ``shuffle_seed``.

    The real response is one draw from the true distribution; in the split ``pretrain`` half of them are corrupted.
    """
    if spec.split not in (*SPLITS, "pretrain"):
        raise InputError(f"the procedural source has no split {spec.split!r}{suggest(spec.split, [*SPLITS, 'pretrain'])}")
    if spec.split == "pretrain":
        examples = noisy(sample("train", spec.num_prompts, spec.shuffle_seed), PRETRAIN_NOISE, spec.shuffle_seed)
    else:
        examples = sample(spec.split, spec.num_prompts, spec.shuffle_seed)
    return [
        Demonstration(hashlib.sha256(prompt.encode()).hexdigest(), [{"role": "user", "content": prompt}], response)
        for prompt, response, _ in examples
    ]


def load_preferences(spec: PromptSource) -> list[Preference]:
    """The rows of ``load``; chosen is the draw from the true distribution, rejected an invalid response one small change away from it."""
    rng = random.Random(f"rejected {spec.shuffle_seed}")
    rows = load(spec)
    rejected = [corruptions(row.prompt[0]["content"], row.real, rng, 1)[0] for row in rows]
    return [Preference(row.prompt_id, row.prompt, row.real, worse) for row, worse in zip(rows, rejected, strict=True)]
