"""The dependency audit (requirements/audit.py): the real pip-audit against a stand-in of OSV on loopback."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Processes

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
RUN_LOCK = "# a comment\nsafe-thing==1.0 \\\n    --hash=sha256:00\n"
DEV_LOCK = RUN_LOCK + "weak-thing==2.1 ; sys_platform == 'win32' \\\n    --hash=sha256:01\n"
FIXED = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.2"}]}
WEAK = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "aliases": ["CVE-2026-0001"],
    "affected": [{"package": {"name": "weak-thing", "ecosystem": "PyPI"}, "ranges": [FIXED]}],
}
CONTROL: dict[str, Any] = {"id": "PYSEC-1", "affected": []}
ACCEPTED = "[CVE-2026-0001]\nuntil = {until}\nreason = 'nothing calls it'\n"


class Audit:
    """A copy of the script with small lock files, and the stand-in: what it answers, what it was asked."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self._processes, self.url = folder, processes, ""
        self.weak: dict[str, list[dict[str, Any]]] = {"jinja2": [CONTROL]}
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[str], tuple[int, bytes]] = self.as_documented

    def as_documented(self, name: str) -> tuple[int, bytes]:
        return 200, json.dumps({"vulns": self.weak[name]} if name in self.weak else {}).encode()

    def __call__(self, *arguments: str) -> tuple[int, str]:
        environ = {"PIP_AUDIT_OSV_URL": self.url, "NO_PROXY": "*", "XDG_CACHE_HOME": str(self.folder)}
        process = self._processes.python(str(self.folder / "audit.py"), *arguments, environ=environ)
        return process.wait(), process.output


@pytest.fixture
def audit(tmp_path: Path, processes: Processes) -> Iterator[Audit]:
    audit = Audit(tmp_path, processes)
    shutil.copy(REQUIREMENTS / "audit.py", tmp_path)
    for name, text in (("run.lock", RUN_LOCK), ("dev.lock", DEV_LOCK), ("accepted.toml", "# none\n")):
        (tmp_path / name).write_text(text)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            audit.asked.append((query["package"]["name"], query["version"]))
            status, body = audit.answer(query["package"]["name"])
            with suppress(ConnectionError):  # it may have stopped waiting
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        audit.url = f"http://127.0.0.1:{server.server_port}/v1/query"
        try:
            yield audit
        finally:
            server.shutdown()
            thread.join()


def test_every_package_of_every_platform_is_asked_for_once(audit: Audit) -> None:
    assert audit() == (0, "dependency audit: 2 locked packages, no known weakness\n")
    assert audit.asked == [("jinja2", "2.4.1"), ("safe-thing", "1.0"), ("weak-thing", "2.1")]


def test_the_projects_own_files_are_read(audit: Audit) -> None:
    for path in REQUIREMENTS.iterdir():
        if path.is_file():
            shutil.copy(path, audit.folder)
    status, said = audit()
    assert status == 0, said
    assert {"celery", "httpx", "mypy", "setuptools", "async-timeout"} <= {name for name, _ in audit.asked}


@pytest.mark.parametrize("arguments", [(), ("--if-it-answers",)])
def test_a_finding_fails_with_package_version_advisory_and_fix(
    audit: Audit, arguments: tuple[str, ...]
) -> None:
    audit.weak["weak-thing"] = [WEAK, WEAK | {"id": "PYSEC-2\x1b[2J", "aliases": [], "affected": []}]
    status, said = audit(*arguments)
    assert status == 1
    assert [line.split() for line in said.splitlines()] == [
        ["package", "version", "advisory", "fixed", "in"],
        ["weak-thing", "2.1", "PYSEC-2[2J", "not", "said"],
        ["weak-thing", "2.1", "CVE-2026-0001,", "GHSA-aaaa-bbbb-cccc", "2.2"],
        ["dependency", "audit:", "2", "locked", "packages,", "2", "known", "weaknesses"],
    ]


def test_an_accepted_finding_is_lived_with_until_its_day(audit: Audit) -> None:
    audit.weak["weak-thing"] = [WEAK]
    (audit.folder / "accepted.toml").write_text(ACCEPTED.format(until="9999-01-01"))
    status, said = audit()
    assert status == 0
    assert said.startswith("accepted until 9999-01-01: CVE-2026-0001 (nothing calls it)\n")
    (audit.folder / "accepted.toml").write_text(ACCEPTED.format(until="2026-01-02"))
    status, said = audit()
    assert status == 1
    assert "accepted" not in said


@pytest.mark.parametrize(
    "text",
    [
        ACCEPTED.format(until="2026-06-01T00:00:00"),
        ACCEPTED.format(until="2026-06-01").replace("nothing calls it", ""),
        "CVE-2026-0001 = 'later'",
        "[CVE-2026-0001",
    ],
)
def test_what_is_accepted_without_day_and_reason_fails_before_anybody_is_asked(
    audit: Audit, text: str
) -> None:
    (audit.folder / "accepted.toml").write_text(text)
    status, said = audit("--if-it-answers")
    assert status == 2
    assert said.startswith("dependency audit: a file of requirements/ cannot be used: ")
    assert (said.count("\n"), audit.asked) == (1, [])


@pytest.mark.parametrize(("arguments", "expected"), [((), 2), (("--if-it-answers",), 0)])
def test_a_service_that_is_away_is_one_loud_line(
    audit: Audit, arguments: tuple[str, ...], expected: int
) -> None:
    audit.url = "http://127.0.0.1:0/v1/query"  # no service can be on port 0
    status, said = audit(*arguments)
    assert status == expected
    assert said.startswith("dependency audit: NOT done, ")
    assert "127.0.0.1" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "why"), [("(1, 20)", "Read timed out"), ("(20, 1)", "no result within 1 s")]
)
def test_a_service_that_is_silent_is_left_after_a_few_seconds(audit: Audit, seconds: str, why: str) -> None:
    script, over = audit.folder / "audit.py", threading.Event()
    script.write_text(script.read_text().replace("(4, 20)", seconds))
    audit.answer = lambda _: (200 if over.wait(60) else 500, b"{}")
    try:
        status, said = audit("--if-it-answers")
    finally:
        over.set()
    assert status == 0
    assert said.startswith("dependency audit: NOT done, ")
    assert why in said


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((503, b"{}"), "503 Server Error"),
        ((200, b"<html>log in first</html>"), "JSONDecodeError"),
        ((200, b'{"results": []}'), "KeyError"),
        ((200, b"{}"), "finds nothing in jinja2==2.4.1"),
    ],
)
def test_an_answer_that_cannot_be_understood_is_an_audit_not_done(
    audit: Audit, answer: tuple[int, bytes], why: str
) -> None:
    audit.answer = lambda _: answer
    status, said = audit("--if-it-answers")
    assert (status, said.count("\n")) == (0, 1)
    assert said.startswith("dependency audit: NOT done, ")
    assert why in said


def test_a_lock_file_with_a_loose_package_is_an_audit_not_done(audit: Audit) -> None:
    (audit.folder / "run.lock").write_text("loose-thing>=1 \\\n    --hash=sha256:00\n")
    status, said = audit()
    assert status == 2
    assert "loose-thing is not pinned" in said
