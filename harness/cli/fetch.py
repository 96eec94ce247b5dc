"""What a recipe needs from the Hub, listed file by file and put into the caches: afterwards its stages need no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.artifact import Stage
from harness.cli.preflight import HUB_SECONDS
from harness.contracts import load
from harness.contracts.stage_specs import ModelSpec, PromptsSpec
from harness.errors import InputError, first_line
from harness.plan import SCORED, plan
from harness.recipe import Benchmark, PromptSource, Recipe, Task


class Repository(NamedTuple):
    """A repository of the Hub at a revision (None: its newest), and which part of it a recipe needs."""

    kind: Literal["model", "dataset", "space"]
    name: str
    revision: str | None
    files: tuple[str, ...] = ()
    """Patterns of a model's or a Space's files."""
    config: str | None = None
    """Of a data set that has several."""


class File(NamedTuple):
    """A file of a repository: its commit, path, size in bytes where the Hub tells it, and whether the cache holds it."""

    repository: str
    revision: str
    file: str
    size: int | None
    cached: bool


def repositories(recipe: Recipe) -> list[Repository]:
    """Every repository that a stage of the recipe reads, once."""
    return list(dict.fromkeys(found for stage in plan(recipe) for found in _of_stage(stage)))


def refuse_unreachable(wanted: Sequence[Repository]) -> None:
    """`InputError` where the Hub does not answer for the first of them: asked for files, its client tries for half a minute and more."""
    from huggingface_hub import HfApi

    for repository in wanted[:1]:
        kind, name, revision = repository.kind, repository.name, repository.revision
        try:
            HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=HUB_SECONDS)
        except Exception as error:  # whatever keeps the client from it
            raise _not_fetched(repository, error) from None


def files(repository: Repository) -> list[File]:
    """The files that would be fetched of a repository; asks the Hub."""
    found = _ask_hub(repository, dry_run=True)
    return [File(repository.name, each.commit_hash, each.filename, each.file_size, each.is_cached) for each in found]


def fetch(repository: Repository) -> None:
    """Put a repository's files into the Hub's cache, and a data set also into that of `datasets`, as the stages read it."""
    _ask_hub(repository, dry_run=False)
    if repository.kind == "dataset":
        import datasets

        datasets.load_dataset(repository.name, repository.config, revision=repository.revision)


def _of_stage(stage: Stage) -> Iterator[Repository]:
    if stage.kind == "model":
        model = ModelSpec.model_validate(stage.spec).model
        if model.source == "hub":
            yield Repository("model", model.name, model.revision, tuple(_model_files()))
    elif stage.kind in ("prompts", "preferences"):
        yield from _of_prompts(PromptsSpec.model_validate(stage.spec).prompts)
    elif stage.kind in SCORED:
        yield from _of_benchmark(Benchmark.model_validate(stage.spec["benchmark"]))


def _model_files() -> list[str]:
    from harness.stages.model import HUB_FILES

    return HUB_FILES


def _of_prompts(prompts: PromptSource) -> Iterator[Repository]:
    if prompts.source == "hub":
        yield Repository("dataset", prompts.dataset, prompts.revision, config=prompts.config)


def _of_benchmark(benchmark: Benchmark) -> Iterator[Repository]:
    """The Space of MT-Bench's questions, or the data sets of lm-eval's tasks; procedural tasks have none."""
    if benchmark.name == "mt_bench":
        from harness.evaluation.mt_bench import questions

        if any(not questions.is_tiny(task) for task in benchmark.tasks):
            wanted = (questions.QUESTIONS_FILE, questions.REFERENCES_FILE, questions.JUDGE_PROMPTS_FILE)
            yield Repository("space", questions.SPACE, questions.SPACE_REVISION, wanted)
        return
    if benchmark.name == "lm_eval":
        yield from _of_any_task(benchmark)
        return
    protocols = vars(load("benchmarks", benchmark.name)).get("PROTOCOLS", {})
    for task in benchmark.tasks:
        definition = protocols.get(benchmark.protocol, {}).get(task.name)
        if definition is not None:
            yield from _of_task(task, definition.files)


def _of_task(task: Task, pattern: str) -> Iterator[Repository]:
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(Path(lm_eval.tasks.__file__).parent.glob(pattern)):
        if not task.subtasks or path.stem in task.subtasks:
            yield _of_config(load_yaml(path, resolve_func=False))


def _of_any_task(benchmark: Benchmark) -> Iterator[Repository]:
    """The data sets of the Hub that lm-eval's tasks, groups and tags name; a task of the user's own may read files beside it instead."""
    from lm_eval.tasks import TaskManager

    index = TaskManager(include_path=benchmark.task_folder).task_index
    for task in benchmark.tasks:
        for name, config in _leaves(task.name, index).items():
            if (not task.subtasks or name in task.subtasks) and "/" in config.get("dataset_path", ""):
                yield _of_config(config)


def _leaves(name: str, index: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{task: its settings} of all tasks below a name of lm-eval's index; below a tag those that bear it."""
    entry = index[name]
    config = entry.cfg or {"task": sorted(entry.tags)}
    children = config.get("task")
    if not isinstance(children, list):
        return {name: config}
    found: dict[str, dict[str, Any]] = {}
    for child in children:
        named = child if isinstance(child, str) else child.get("group", child.get("task"))
        found |= _leaves(named, index) if named in index else {str(named): child}
    return found


def _of_config(config: Mapping[str, Any]) -> Repository:
    revision = (config.get("dataset_kwargs") or {}).get("revision")
    return Repository("dataset", config["dataset_path"], revision, config=config.get("dataset_name"))


def _ask_hub(repository: Repository, *, dry_run: bool) -> Any:
    """Download a repository into the cache, or only say what that would download."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # a line for each attempt; the last one's reason is in ours
    try:
        wanted = list(repository.files or _data_files(repository))
        kind, name, revision = repository.kind, repository.name, repository.revision
        return snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=wanted, dry_run=dry_run)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _not_fetched(repository, error) from None


def _not_fetched(repository: Repository, error: Exception) -> InputError:
    return InputError(
        f"{repository.kind} {repository.name}@{repository.revision or 'main'} could not be fetched: {first_line(error)}; "
        "check the network, HF_HUB_OFFLINE and HF_TOKEN"
    )


def _data_files(repository: Repository) -> list[str]:
    """The paths of the files of a data set's configuration, and of its card, which names them."""
    import datasets

    builder = datasets.load_dataset_builder(repository.name, repository.config, revision=repository.revision)
    urls = [str(url) for split in (builder.config.data_files or {}).values() for url in split]
    return ["README.md", *(_path_in(url) for url in urls)]


def _path_in(url: str) -> str:
    """The path of hf://datasets/OWNER/NAME@REVISION/PATH inside its repository."""
    _, _, after = url.partition("@")
    return after.partition("/")[2]
