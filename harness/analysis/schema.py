"""The JSON schema of tables.json, published as docs/tables.schema.json: `python -m harness.analysis.schema > docs/tables.schema.json`."""

from __future__ import annotations

import json
import sys

from pydantic import TypeAdapter

from harness.analysis.table_schema import LAYOUT, ResultTable, SeedTable


def to_text() -> str:
    """The schema of a run's table, or of several runs' table, as JSON Schema 2020-12."""
    schema = TypeAdapter(ResultTable | SeedTable).json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"harness tables, layout {LAYOUT}"}
    return json.dumps({**head, **schema}, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(to_text())
