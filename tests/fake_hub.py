"""The Hugging Face Hub as a server on this machine, as far as downloading models, data sets and Spaces asks of it.

A folder is the Hub: `models/OWNER/NAME/...`, `datasets/OWNER/NAME/...`, `spaces/OWNER/NAME/...` are its repositories. Each has the
commit it is asked for, and its newest is `COMMIT`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40
API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(tree|revision|paths-info)/([^/]+)(?:/(.*))?)?")
RESOLVE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class _Handler(BaseHTTPRequestHandler):
    """Answers for the repositories of a folder."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := API.fullmatch(path):
            kind, name, what, revision, _ = found.groups()
            repository = self.folder / kind / name
            if not repository.is_dir():
                self._refuse("RepoNotFound")
            elif what == "tree":
                self._answer_json([_entry(file, repository) for file in _files(repository)], revision)
            elif what == "paths-info":
                self._answer_json(
                    [_entry(repository / one, repository) for one in self._asked_paths() if (repository / one).exists()], revision
                )
            else:
                self._answer_json(_info(name, repository, _commit(revision)), revision)
        elif found := RESOLVE.fullmatch(path):
            kind, name, revision, file = found.groups()
            target = self.folder / (kind or "models") / name / file
            if target.is_file():
                self._answer(target.read_bytes(), "application/octet-stream", revision)
            else:
                self._refuse("EntryNotFound")
        else:
            self._refuse("")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def _asked_paths(self) -> list[str]:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = (json.loads(body) if is_json else parse_qs(body)).get("paths", [])
        return [paths] if isinstance(paths, str) else paths

    def _answer_json(self, value: Any, revision: str | None) -> None:
        self._answer(json.dumps(value).encode(), "application/json", revision)

    def _answer(self, body: bytes, kind: str, revision: str | None) -> None:
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": len(body), "ETag": f'"{_oid(body)}"', "X-Repo-Commit": _commit(revision)}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _commit(revision: str | None) -> str:
    return revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else COMMIT


def _oid(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def _files(repository: Path) -> list[Path]:
    return sorted(path for path in repository.rglob("*") if path.is_file())


def _entry(path: Path, repository: Path) -> dict[str, Any]:
    name = str(path.relative_to(repository))
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _oid(path.read_bytes())}


def _info(name: str, repository: Path, commit: str) -> dict[str, Any]:
    files = [{"rfilename": str(path.relative_to(repository))} for path in _files(repository)]
    return {"_id": "0" * 24, "id": name, "sha": commit, "private": False, "gated": False, "disabled": False, "tags": [], "siblings": files}


def write_dataset(folder: Path, configs: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> None:
    """A data set's repository: {configuration: {split: rows}} as Parquet files, and the card that names them."""
    import pyarrow
    import pyarrow.parquet
    import yaml

    card = []
    for config, splits in configs.items():
        (folder / config).mkdir(parents=True)
        for split, rows in splits.items():
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows]), folder / config / f"{split}.parquet")
        files = [{"split": split, "path": f"{config}/{split}.parquet"} for split in splits]
        card.append({"config_name": config, "data_files": files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': card})}---\n")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a Hub with the repositories of `folder`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
