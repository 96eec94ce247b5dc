"""Errors a user can cause or cure. Each message says what was found, what was expected, and what to do.

    HarnessError
    ├── RecipeError      a recipe or machine file is wrong or unknown
    ├── InputError       a dataset, model, prompt set, response file or directory is missing, damaged or cannot be used
    ├── StaleError       a directory holds work made under another identity
    ├── BusyError        another process works in the run directory
    ├── MachineError     the machine cannot do what the recipe asks (batch, memory, disk)
    ├── JudgeError       the judge's endpoint is down or refuses
    ├── TrainingError    the loss is not finite, or the step-0 check failed
    └── StageError       a stage's process failed

The CLI prints them as one line without a traceback and exits with code 1; anything else is a defect of ours, keeps its traceback and
exits with code 70.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

USER_ERROR_EXIT = 1
LISTED = 12
STOPPED_EXIT = 75
"""Exit code of a stage that SIGTERM ended after it had saved what it had done (EX_TEMPFAIL: the same command continues it)."""


class HarnessError(Exception):
    """The root: `str(error)` is the whole message for the user."""


class RecipeError(HarnessError):
    """A recipe or machine is unknown, misspelt, unpinned or contradicts itself."""


class InputError(HarnessError):
    """Something a stage reads is missing, empty or damaged."""


class StaleError(HarnessError):
    """A stage directory was made under another identity than the recipe's."""


class BusyError(HarnessError):
    """The run directory is in use by another process."""


class MachineError(HarnessError):
    """The machine cannot run this recipe as described."""


class JudgeError(HarnessError):
    """The judge could not be reached or refused."""


class TrainingError(HarnessError):
    """Training produced a value that must not be trained on."""


class StageError(HarnessError):
    """The process of a stage ended with an error."""


@contextmanager
def requires(extra: str, *packages: str) -> Iterator[None]:
    """Turn the failed import of one of an extra's packages into an error that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in packages:
            raise
        raise HarnessError(f"{error.name} is not installed; this needs the extra: pip install 'harness-spin[{extra}]'") from None


def first_line(error: Exception) -> str:
    """The first line of words in what a library's exception says, without its full stop."""
    told = (line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line)))
    return next(told, type(error).__name__).rstrip(". ")


def suggest(found: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for a near match among `known`, and what exists, unless that is long and a near match was found."""
    known = sorted(known)
    close = difflib.get_close_matches(found, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return hint if hint and len(known) > LISTED else f"{hint} (known: {', '.join(known)})"
