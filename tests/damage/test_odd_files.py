"""Files of others, pairs and judgments, odd or damaged in every way we could think of: read and counted, or refused in one line."""

from __future__ import annotations

import copy
import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest

from harness.analysis.forensics.result_files import read_results
from harness.artifact import RunDir
from harness.components.sources import local, procedural
from harness.errors import HarnessError
from harness.evaluation.mt_bench import ratings
from harness.runs import exchange, pair_files
from harness.runs.verification import verify
from tests import Told
from tests.analysis.forensics.test_result_files import TWO, write_details, write_lm_eval
from tests.checkpoints import MACHINE
from tests.runs.test_exchange import NUM, RECIPE, with_model
from tests.test_properties import places, put

pytestmark = pytest.mark.damage

NUM_FLIPS = 60
NOTHING: list[Any] = [None, 0, True, 1.5, "", [], {}, [None], [[]], {"role": "user"}, [{"role": "user"}], [{"content": "x"}], "\x1b[2J"]
RAW = {
    "empty": b"",
    "blank": b"\n\n",
    "no json": b"hello\n",
    "a number": b"5\n",
    "a list": b"[1, 2]\n",
    "null": b"null\n",
    "NUL bytes": b"\x00" * 4096,
    "latin-1": '{"prompt": "é"}\n'.encode("latin-1"),
    "utf-16": '{"prompt": "x"}\n'.encode("utf-16"),
    "surrogate": b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}\n',
    "deep": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}\n",
    "huge number": b'{"prompt": "x", "chosen": "a", "rejected": "b", "finish_reason": ' + b"9" * 5000 + b"}\n",
    "NaN": b'{"prompt": NaN, "chosen": NaN, "rejected": Infinity}\n',
    "one long line": b'{"prompt": "' + b"x" * 5_000_000,
}
"""Bytes that are no pairs and no judgments, whatever the file is called."""


def good_rows() -> list[dict[str, Any]]:
    found = procedural.sample("train", NUM, 0)
    return [
        {
            "prompt_id": f"p{i}",
            "prompt": [{"role": "user", "content": one.prompt}],
            "chosen": [{"role": "assistant", "content": one.response}],
            "rejected": [{"role": "assistant", "content": f"a {i}"}],
            "finish_reason": "stop",
        }
        for i, one in enumerate(found)
    ]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def one_changed(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows with one value of one row replaced by nothing, or gone; with a row too few and too many."""
    changed = {}
    for name in rows[0]:
        for i, value in enumerate(NOTHING):
            other = copy.deepcopy(rows)
            other[len(rows) // 2][name] = value
            changed[f"{name} {i}"] = other
        changed[f"no {name}"] = [{key: value for key, value in row.items() if key != name} for row in rows]
    return {**changed, "a row too few": rows[:-1], "a row twice": [*rows, rows[0]], "good": rows}


def flipped(data: bytes, seed: int) -> bytes:
    """A byte changed; every fourth time the end is cut off too."""
    rng, changed = random.Random(seed), bytearray(data)
    changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    return bytes(changed[: rng.randrange(len(data))] if seed % 4 == 0 else changed)


def outcome(read: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether `read` took the file, and what it returned or said, in one line; anything else is a defect and is raised."""
    try:
        return True, read()
    except HarnessError as error:
        said = str(error)
    assert len(said.splitlines()) == 1, said
    return False, said


def test_pair_files(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a pair file makes a whole stage of the recipe's prompts, which verify accepts, or it is refused and leaves nothing."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    good = good_rows()
    datasets.Dataset.from_list(good).to_parquet(tmp_path / "good.parquet")
    parquet = (tmp_path / "good.parquet").read_bytes()
    files = {f"{name}.{kind}": data for kind in ("jsonl", "json", "parquet") for name, data in RAW.items()}
    files |= {f"{name}.jsonl": lines(rows) for name, rows in one_changed(good).items()}
    files |= {f"flip {i}.parquet": flipped(parquet, i) for i in range(NUM_FLIPS)}
    files |= {f"flip {i}.jsonl": flipped(lines(good), i) for i in range(NUM_FLIPS)}
    files |= {"text.txt": lines(good), "packed.jsonl": gzip.compress(lines(good)), "good.parquet": parquet}
    with_model(tmp_path / "model")
    taken = 0
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        run = RunDir(tmp_path / "run")
        shutil.copytree(tmp_path / "model", run.path)
        is_taken, said = outcome(lambda: exchange.import_pairs(RECIPE, run, MACHINE, 0, str(tmp_path / name), "train", "odd"))  # noqa: B023
        assert said == NUM or not is_taken, name
        damage = [item for item in verify(run).damage if "is planned by" not in item.reason]
        assert not damage, (name, damage)
        assert (run.record("iter0/generate") is not None) == is_taken, name
        taken += is_taken
        shutil.rmtree(run.path)
    told(f"pair files {len(files)}/{len(files)} ({taken} read whole, {len(files) - taken} refused in one line)")
    assert taken >= 2


def test_pair_folders(tmp_path: Path, told: Told) -> None:
    """Promise: a folder of a damaged data set is one line too."""
    rows = datasets.Dataset.from_list(good_rows())
    rows.to_parquet(tmp_path / "good.parquet")
    files = {f"{kind}-{name}": data for kind in ("jsonl", "parquet", "arrow") for name, data in RAW.items()}
    files |= {f"parquet-{i}": flipped((tmp_path / "good.parquet").read_bytes(), i) for i in range(NUM_FLIPS)}
    taken = 0
    for name, data in files.items():
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / f"train-00000.{name.partition('-')[0]}").write_bytes(data)
        taken += outcome(lambda: pair_files.read(str(tmp_path / name), "train"))[0]  # noqa: B023
    for i in range(NUM_FLIPS):
        rows.save_to_disk(tmp_path / f"saved {i}")
        path = sorted(path for path in (tmp_path / f"saved {i}").iterdir())[i % 3]
        path.write_bytes(flipped(path.read_bytes(), i))
        taken += outcome(lambda: pair_files.read(str(tmp_path / f"saved {i}"), "train"))[0]  # noqa: B023
    num = len(files) + NUM_FLIPS
    told(f"pair folders {num}/{num} ({taken} read, {num - taken} refused in one line)")


def test_judgment_files(tmp_path: Path, told: Told) -> None:
    """Promise: a judgment file is counted, every verdict of it, or refused in one line that names the file."""
    good: list[dict[str, Any]] = [
        {"question_id": 81 + i, "model": "m", "judge": ["j", "single"], "judgment": f"[[{i % 10}]]", "score": i % 10, "turn": 1 + i % 2}
        for i in range(NUM)
    ]
    files = {f"{name}.jsonl": data for name, data in RAW.items()}
    files |= {f"{name}.jsonl": lines(rows) for name, rows in one_changed(good).items()}
    files |= {f"flip {i}.jsonl": flipped(lines(good), i) for i in range(NUM_FLIPS)}
    files |= {f"flip {i}.jsonl.gz": flipped(gzip.compress(lines(good)), i) for i in range(NUM_FLIPS)}
    files |= {f"{name}.jsonl.gz": data for name, data in RAW.items()} | {"good.jsonl.gz": gzip.compress(lines(good))}
    taken = 0
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        is_taken, said = outcome(lambda: ratings.summarize(ratings.read_judgments([path])))  # noqa: B023
        if is_taken:
            assert sum(one["verdicts"] for one in said) == sum(bool(line.strip()) for line in text_of(path).splitlines()), name
            assert all(one["mean"] is None or 1 <= one["mean"] <= 10 for one in said), name
            json.dumps(ratings.rows(said), allow_nan=False)
        else:
            assert name in said
        taken += is_taken
    told(f"judgment files {len(files)}/{len(files)} ({taken} counted whole, {len(files) - taken} refused in one line)")
    assert taken >= 2


def test_data_files(tmp_path: Path, told: Told) -> None:
    """Promise: a data file of the user's own is read, or refused in one line that names it."""
    good = good_rows()
    rows = datasets.Dataset.from_list(good)
    rows.to_parquet(tmp_path / "good.parquet")
    whole = {"jsonl": lines(good), "jsonl.gz": gzip.compress(lines(good)), "json": json.dumps(good).encode(), "csv": b'a,"b\nc"\n1,2\n'}
    whole["parquet"] = (tmp_path / "good.parquet").read_bytes()
    with pyarrow.OSFile(str(tmp_path / "good.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, rows.data.schema) as stream:
        stream.write_table(rows.data.table)
    whole["arrow"] = (tmp_path / "good.arrow").read_bytes()
    kinds = [*whole, "json.gz"]
    files = {f"{name}.{kind}": data for kind in kinds for name, data in RAW.items()}
    files |= {f"flip {i}.{kind}": flipped(data, i) for kind, data in whole.items() for i in range(NUM_FLIPS)}
    files |= {f"packed {name}.jsonl.gz": gzip.compress(data) for name, data in RAW.items()}
    files |= {f"good.{kind}": data for kind, data in whole.items()}
    taken = 0
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        is_taken, said = outcome(lambda: list(local.read(tmp_path / name)))  # noqa: B023
        assert is_taken or name in said, said
        taken += is_taken
    told(f"data files {len(files)}/{len(files)} ({taken} read, {len(files) - taken} refused in one line)")
    assert taken >= len(whole)


def test_result_files(tmp_path: Path, told: Told) -> None:
    """Promise: lm-eval's files with any value in another's place, and the leaderboard's with any byte changed, are read or refused."""
    lines_of = {path.name: path for path in write_lm_eval(tmp_path / "good").rglob("*") if path.is_file()}
    (results,), (samples,) = ([path for name, path in lines_of.items() if name.startswith(kind)] for kind in ("results", "samples"))
    whole, line = json.loads(results.read_text()), json.loads(samples.read_text().splitlines()[0])
    changed = [(json.dumps(put(whole, place, odd)), samples.read_text()) for place in places(whole) for odd in NOTHING]
    changed += [(results.read_text(), json.dumps(put(line, place, odd)) + "\n") for place in places(line) for odd in NOTHING]
    changed += [(data.decode(errors="replace"), samples.read_text()) for data in RAW.values()]
    taken = 0
    for text, of_samples in changed:
        results.write_text(text)
        samples.write_text(of_samples)
        taken += outcome(lambda: read_results([tmp_path / "good"]))[0]
    details = write_details(tmp_path / "details_harness|arc:challenge|25_2024-01-01T00-00-00.parquet", TWO)
    data = details.read_bytes()
    for i in range(NUM_FLIPS):
        details.write_bytes(flipped(data, i))
        taken += outcome(lambda: read_results([details]))[0]
    num = len(changed) + NUM_FLIPS
    told(f"result files {num}/{num} ({taken} read, {num - taken} refused in one line)")


def text_of(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
