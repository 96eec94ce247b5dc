"""tables.json keeps the layout that docs/tables.schema.json publishes."""

import json
from pathlib import Path

import pytest

from harness.analysis import table_schema as schema
from harness.report.tables import collect, combine, render
from tests import ROOT
from tests.synthetic_runs import small_recipe, write_run

jsonschema = pytest.importorskip("jsonschema", reason="needs the dev extra's jsonschema")
PUBLISHED = ROOT / "docs/tables.schema.json"


def test_published_schema_is_current() -> None:
    """The committed schema is the one of the code; renew it with `python -m harness.analysis.table_schema > docs/tables.schema.json`."""
    assert PUBLISHED.read_text() == schema.to_text()


def test_tables_validate(tmp_path: Path) -> None:
    """The JSON of one run and of several is valid under the published schema, and a changed one is not."""
    validator = jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text()))
    runs = [write_run(tmp_path / f"s{seed}", small_recipe(f"s{seed}", claims="zephyr-7b-sft-full", seed=seed)) for seed in range(2)]
    for table in (collect(runs[0]), combine(runs)):
        validator.validate(json.loads(render(table, "json")))
    changed = json.loads(render(collect(runs[0]), "json"))
    changed["cells"][0]["value"] = "high"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(changed)
