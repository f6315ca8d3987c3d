"""The dependency audit (requirements/audit.py) against a stand-in of the service on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from tests.conftest import Processes

SCRIPT = str(Path(__file__).resolve().parents[2] / "requirements" / "audit.py")
LOCK = """# a comment
safe-thing==1.0 \\
    --hash=sha256:00
weak-thing==2.1 ; sys_platform == 'win32' \\
    --hash=sha256:01
"""
ADVISORY: dict[str, Any] = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "aliases": ["CVE-2026-0001"],
    "affected": [
        {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}, {"fixed": "deadbeef"}]}]},
        {
            "package": {"name": "Weak_Thing", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.2"}]}],
        },
    ],
}
ACCEPTED = """
[[accepted]]
package = "weak-thing"
advisory = "CVE-2026-0001"
since = 2026-01-01
until = {until}
reason = "nothing calls it"
"""


class Service:
    """The stand-in: `weak` are advisories by package; a test may replace what it answers."""

    def __init__(self) -> None:
        self.weak: dict[str, list[str]] = {"jinja2": ["PYSEC-1"]}
        self.advisory: dict[str, Any] = ADVISORY
        self.asked: list[list[dict[str, Any]]] = []
        self.answer: Callable[[list[dict[str, Any]]], tuple[int, bytes]] = self.as_documented
        self.url = ""

    def as_documented(self, queries: list[dict[str, Any]]) -> tuple[int, bytes]:
        """One result for each query, one advisory a page."""
        return 200, json.dumps({"results": [self._result(query) for query in queries]}).encode()

    def _result(self, query: dict[str, Any]) -> dict[str, Any]:
        listed, page = self.weak.get(query["package"]["name"], []), int(query.get("page_token", 0))
        result: dict[str, Any] = {"vulns": [{"id": listed[page], "modified": "now"}]} if listed else {}
        return result | ({"next_page_token": str(page + 1)} if page + 1 < len(listed) else {})


class Audit(Protocol):
    """`audit(*arguments)`: exit status and output of the script."""

    def __call__(self, *arguments: str, service: str | None = None) -> tuple[int, str]: ...


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/querybatch"
            service.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"])
            with suppress(ConnectionError):  # it may have stopped waiting
                self._say(*service.answer(service.asked[-1]))

        def do_GET(self) -> None:
            known = self.path == f"/v1/vulns/{service.advisory.get('id')}"
            self._say(200 if known else 404, json.dumps(service.advisory).encode() if known else b"{}")

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        service.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dev.lock").write_text(LOCK)
    (tmp_path / "accepted.toml").write_text("# none\n")
    return tmp_path


@pytest.fixture
def audit(service: Service, folder: Path, processes: Processes) -> Audit:
    def run(*arguments: str, service: str | None = service.url) -> tuple[int, str]:
        given = (f"--folder={folder}", *([f"--service={service}"] if service else []), *arguments)
        process = processes.python(SCRIPT, *given, environ={"NO_PROXY": "127.0.0.1"})
        return process.wait(), process.output

    return run


def test_every_locked_package_is_asked_for_by_name_and_version(service: Service, audit: Audit) -> None:
    assert audit() == (0, f"dependency audit: 2 locked packages, no known weakness ({service.url})\n")
    (queries,) = service.asked
    assert [(query["package"]["name"], query["version"]) for query in queries[1:]] == [
        ("safe-thing", "1.0"),
        ("weak-thing", "2.1"),
    ]
    assert all(
        query["package"]["ecosystem"] == "PyPI" and set(query) == {"package", "version"} for query in queries
    )


@pytest.mark.parametrize("arguments", [(), ("--if-it-answers",)])
def test_a_finding_fails_with_package_version_advisory_and_fix(
    service: Service, audit: Audit, arguments: tuple[str, ...]
) -> None:
    service.weak["weak-thing"] = [ADVISORY["id"]]
    status, said = audit(*arguments)
    assert status == 1
    assert [line.split() for line in said.splitlines()[:2]] == [
        ["package", "version", "advisory", "fixed", "in"],
        ["weak-thing", "2.1", "GHSA-aaaa-bbbb-cccc,", "CVE-2026-0001", "2.2"],
    ]


def test_the_projects_own_files_are_read(service: Service, audit: Audit) -> None:
    status, said = audit(f"--folder={Path(SCRIPT).parent}")
    assert status == 0, said
    names = {query["package"]["name"] for query in service.asked[0]}
    assert {"celery", "httpx", "mypy", "setuptools", "async-timeout"} <= names


def test_a_finding_fails_also_where_its_details_are_not_to_be_had(service: Service, audit: Audit) -> None:
    service.weak["weak-thing"] = ["GHSA-without-details"]
    status, said = audit("--if-it-answers")
    assert status == 1
    assert "GHSA-without-details  not said" in said


def test_findings_on_later_pages_count(service: Service, audit: Audit) -> None:
    service.weak["weak-thing"] = ["PYSEC-2", "PYSEC-3", "PYSEC-4"]
    status, said = audit()
    assert status == 1
    assert [name in said for name in service.weak["weak-thing"]] == [True, True, True]
    assert [len(queries) for queries in service.asked] == [3, 1, 1]


def test_a_withdrawn_advisory_is_no_finding(service: Service, audit: Audit) -> None:
    service.weak["weak-thing"] = ["GHSA-aaaa-bbbb-cccc"]
    service.advisory = ADVISORY | {"withdrawn": "2026-02-01T00:00:00Z"}
    assert audit()[0] == 0


def test_an_accepted_finding_is_shown_with_its_reason_until_its_day(
    service: Service, audit: Audit, folder: Path
) -> None:
    service.weak["weak-thing"] = ["GHSA-aaaa-bbbb-cccc"]
    (folder / "accepted.toml").write_text(ACCEPTED.format(until="9999-01-01"))
    status, said = audit()
    assert status == 0
    assert "accepted until 9999-01-01: weak-thing GHSA-aaaa-bbbb-cccc (nothing calls it)" in said
    (folder / "accepted.toml").write_text(ACCEPTED.format(until="2026-01-02"))
    status, said = audit()
    assert status == 1
    assert "no longer accepted since 2026-01-02: weak-thing CVE-2026-0001" in said


def test_an_accepted_finding_that_is_none_is_named(audit: Audit, folder: Path) -> None:
    (folder / "accepted.toml").write_text(ACCEPTED.format(until="9999-01-01"))
    status, said = audit()
    assert status == 0
    assert "no finding (any more): weak-thing CVE-2026-0001" in said


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("accepted.toml", ACCEPTED.format(until="2025-01-01"), "a later until"),
        ("accepted.toml", ACCEPTED.format(until="2026-06-01").replace("nothing calls it", ""), "reason"),
        ("accepted.toml", "[[accepted]]\npackage = 'weak-thing'\n", "cannot be read"),
        ("dev.lock", LOCK + "loose-thing>=1\n", "no pinned package: loose-thing>=1"),
        ("dev.lock", "", "No package is locked"),
    ],
)
def test_files_that_cannot_be_read_fail_before_anybody_is_asked(
    service: Service, audit: Audit, folder: Path, *, file: str, text: str, complaint: str
) -> None:
    (folder / file).write_text(text)
    status, said = audit("--if-it-answers")
    assert status == 2
    assert complaint in said
    assert not service.asked


@pytest.mark.parametrize(("arguments", "expected"), [((), 2), (("--if-it-answers",), 0)])
def test_a_service_that_is_away_is_one_loud_line(
    audit: Audit, arguments: tuple[str, ...], expected: int
) -> None:
    # No service can be on port 0.
    status, said = audit(*arguments, service="http://127.0.0.1:0")
    assert status == expected
    assert said.startswith("dependency audit: NOT done, http://127.0.0.1:0 does not answer")
    assert said.count("\n") == 1


def test_a_service_that_is_silent_is_left_after_a_few_seconds(service: Service, audit: Audit) -> None:
    over = threading.Event()

    def silence(_: object) -> tuple[int, bytes]:
        over.wait(60)
        return 200, b"{}"

    service.answer = silence
    try:
        status, said = audit("--if-it-answers")
    finally:
        over.set()
    assert status == 0
    assert said.startswith(f"dependency audit: NOT done, {service.url} does not answer")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((503, b"{}"), "answers with status 503"),
        ((302, b"{}"), "answers with status 302"),
        ((200, b"<html>log in first</html>"), "no JSON"),
        ((200, b"[]"), "no object"),
        ((200, b"{}"), "one result for each package"),
        ((200, b'{"results": [{}]}'), "one result for each package"),
        ((200, b'{"results": [{}, {}, []]}'), "cannot be read"),
        ((200, b'{"results": [{}, {}, {"vulns": [{"id": "\\u001b[2J"}]}]}'), "without a proper name"),
        ((200, b'{"results": [{}, {}, {}]}'), "finds nothing in jinja2 2.4.1"),
        ((200, b'{"results": [{"next_page_token": "a"}, {}, {}]}'), "one result for each package"),
    ],
)
def test_an_answer_that_cannot_be_understood_is_an_audit_not_done(
    service: Service, audit: Audit, answer: tuple[int, bytes], why: str
) -> None:
    service.answer = lambda _: answer
    status, said = audit("--if-it-answers")
    assert status == 0
    assert "NOT done" in said
    assert why in said
    assert "\x1b" not in said
