"""Whatever a file, a reply or an archive holds: it is read, or refused in one line, and nothing wrong passes.

PROPERTY_EXAMPLES says how many examples of each are tried (`nox -s properties`: 2,000).
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import math
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import machine
from harness.artifact import DONE_FILE, STAGE_FILE, RunDir, make_stage
from harness.components.judges.mt_bench_single import parse
from harness.errors import HarnessError, InputError
from harness.evaluation.judge_endpoint import verdict_of
from harness.files import dump, hash_file, write_atomic
from harness.recipe import Sampling
from harness.report import bundle as bundling
from harness.runs import pair_files
from harness.runs.verification import verify

settings.register_profile(
    "harness",
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "25")),
    deadline=None,
    derandomize="PROPERTY_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("harness")

ODD = ["../x", "/dev/zero", "..", "", "\x1b[2J", "[[5]]", "[[11]]", "[[5]] [[6]]", "assistant", "stop"]
TEXT = st.text(max_size=12) | st.sampled_from(ODD)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON value, its own first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with `new` at `path`."""
    if not path:
        return new
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def check_line(refused: HarnessError) -> None:
    """One line, whatever it is about."""
    assert len(str(refused).splitlines()) == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of one finished stage."""
    made = RunDir(tmp_path_factory.mktemp("run") / "small")
    stage = make_stage("iter0/generate", "generate", Sampling(temperature=1.0, max_new_tokens=8), {"generate": 1}, {})
    made.begin(stage, machine.load("cpu"), {"commit": "abc", "versions": {"torch": "2.13.0"}})
    write_atomic(made.stage_dir(stage.path) / "responses" / "0.jsonl", b"0123456789")
    made.finish(stage, 1.5, 20.0)
    return made


@pytest.mark.parametrize("name", [STAGE_FILE, DONE_FILE])
@given(data=st.data())
def test_records_are_read_or_refused(run: RunDir, name: str, data: st.DataObject) -> None:
    """Any value anywhere in a record, or any bytes in its place: verify tells it where it is part of what the stage is."""
    path = run.stage_dir("iter0/generate") / name
    whole = path.read_bytes()
    good = json.loads(whole)
    place = data.draw(st.sampled_from([place for place in places(good) if place[:1] != ("machine",)]))
    bad = put(good, place, data.draw(VALUE))
    text = json.dumps(bad).encode()
    cut = data.draw(st.sampled_from([len(text), len(text) // 2]) | st.integers(0, len(text)))
    path.write_bytes(text[:cut])
    try:
        damage = verify(run).damage
        accepted = run.record("iter0/generate") if name == DONE_FILE and not damage else None
    finally:
        path.write_bytes(whole)
    told = {"launches", "accepted", "input_contents"} if name == STAGE_FILE else {"seconds", "peak_memory_mb"}
    if cut < len(text) - 1 or (bad != good and (not place or place[0] not in told)):
        assert damage or json.loads(text[:cut]) == good
    if accepted:
        assert all(math.isfinite(number) and number >= 0 for number in (accepted.seconds, accepted.peak_memory_mb))


@given(rows=st.lists(st.dictionaries(st.sampled_from(["real", "generated", "prompt", "chosen", "rejected", "prompt_id", "finish_reason"]),
       VALUE | st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=3)), max_size=3))  # fmt: skip
def test_pair_files_are_read_or_refused(rows: list[dict[str, Any]]) -> None:
    """A pair is text in all its parts, whatever the file held."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_files, "_rows", lambda source, split: iter(rows))
        try:
            pairs, repeated = pair_files.read("x.jsonl", "train")
        except InputError as refused:
            check_line(refused)
            return
    assert len(pairs) + len(repeated) == len(rows)
    for pair in pairs:
        assert all(isinstance(text, str) for text in (pair.prompt_id, pair.real, pair.generated))
        assert pair.finish_reason in (None, "stop", "length")
        assert pair.prompt


MESSAGE = st.fixed_dictionaries({"role": TEXT, "content": VALUE}) | VALUE
CHOICES = st.lists(st.fixed_dictionaries({"message": MESSAGE}) | VALUE, max_size=2)
REPLY = st.fixed_dictionaries({"model": VALUE, "choices": CHOICES | VALUE})


@given(body=REPLY | VALUE)
def test_judge_replies_are_text_or_nothing(body: Any) -> None:
    """A reply is a verdict as text, whose rating is from 1 to 10 or none; or it is no completion and is asked for again."""
    try:
        verdict = verdict_of(json.dumps(body).encode())
    except ValueError:
        return
    assert isinstance(verdict.text, str)
    assert verdict.model is None or isinstance(verdict.model, str)
    rating = parse(verdict.text)
    assert rating is None or 1 <= rating <= 10


@given(text=st.text() | st.from_regex(r"\[{1,2}-?[0-9]{1,400}(\.[0-9]*)?\]{1,2}"))
def test_ratings_are_in_range(text: str) -> None:
    """Whatever a judge writes."""
    rating = parse(text)
    assert rating is None or 1 <= rating <= 10


def packed(members: list[tuple[str, bytes, bytes]]) -> bytes:
    """A tar of (name, type, data) members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, data in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(data), "/etc/passwd" if kind != tarfile.REGTYPE else ""
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


FILES = {"recipe.json": b"{}", "sft/model/done.json": b"0123456789"}


def good_members(folder: Path) -> list[tuple[str, bytes, bytes]]:
    for name, data in FILES.items():
        write_atomic(folder / name, data)
    manifest = bundling.Manifest(files={name: hash_file(folder / name) for name in FILES})
    return [(f"x/{name}", tarfile.REGTYPE, data) for name, data in {**FILES, bundling.MANIFEST: dump(manifest)}.items()]


NAMES = st.sampled_from(["x/a", "../a", "/a", "x/../../a", "x", "x/recipe.json", "y/a", "x/a/b"]) | st.text(min_size=1, max_size=8).filter(
    lambda name: "\x00" not in name and name.isprintable()
)
TYPES = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])


@given(
    extra=st.lists(st.tuples(NAMES, TYPES, st.binary(max_size=8)), max_size=2),
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=3),
    cut=st.none() | st.integers(0, 3000),
    is_inside=st.booleans(),
)
def test_archives_are_taken_or_refused(
    extra: list[tuple[str, bytes, bytes]], flips: list[tuple[int, int]], cut: int | None, is_inside: bool
) -> None:
    """Members of any kind and name, bytes changed before or after packing, an end cut off: refused, told, or just what was packed."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = bytearray(packed([*good_members(folder / "made"), *extra]))
        data = data if is_inside else bytearray(gzip.compress(bytes(data), mtime=0))
        for where, bits in flips:
            data[where % len(data)] ^= bits
        data = data[:cut]
        (folder / "a.tar.gz").write_bytes(gzip.compress(bytes(data)) if is_inside else bytes(data))
        (folder / "out").mkdir()
        before = sorted(path.relative_to(folder) for path in folder.iterdir())
        try:
            found = bundling._unpack(folder / "a.tar.gz", folder / "out")
            damage = list(bundling._against_manifest(found))
        except HarnessError as refused:
            check_line(refused)
            damage, found = [bundling.Damage("", "")], folder
        assert sorted(path.relative_to(folder) for path in folder.iterdir()) == before
        if not damage:
            there = [path for path in found.rglob("*") if path.is_file() and path.name != bundling.MANIFEST]
            assert {str(path.relative_to(found)): path.read_bytes() for path in there} == FILES
