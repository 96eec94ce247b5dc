"""The notebook in docs/: its code cells are run one after another at the root of the checkout, and their text is what it holds.

`python -m tests.notebook` renews the text. Plain `exec`, since the cells only print: nbclient would bring a Jupyter kernel along.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import ROOT

NOTEBOOK = ROOT / "docs/results.ipynb"
RUN = "results/tiny"


@contextlib.contextmanager
def committed() -> Iterator[Path]:
    """Where the committed records of `RUN` are: here, or a copy of HEAD's where the run was made again here, as README tells to."""
    if (ROOT / RUN / "records.tar.xz").is_file():
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD", RUN], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def printed(cells: list[dict[str, Any]]) -> list[str]:
    """What each code cell prints, all in one namespace."""
    names: dict[str, Any] = {}
    found = []
    with committed() as root, contextlib.chdir(root):
        for cell in cells:
            if cell["cell_type"] == "code":
                with contextlib.redirect_stdout(io.StringIO()) as text:
                    exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
                found.append(text.getvalue())
    return found


def held(cells: list[dict[str, Any]]) -> list[str]:
    """What the notebook says its code cells print."""
    return ["".join(line for out in cell["outputs"] for line in out["text"]) for cell in cells if cell["cell_type"] == "code"]


def read(path: Path = NOTEBOOK) -> dict[str, Any]:
    """The notebook."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    """Run the cells and keep what they print."""
    notebook = read()
    texts = iter(printed(notebook["cells"]))
    for number, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), 1):
        lines = next(texts).splitlines(keepends=True)
        cell["execution_count"] = number
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
