"""The sandbox over real sockets: its ceiling, its faults, its ledger and its control API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from worker.clevertap.sandbox import (
    CampaignState,
    Credentials,
    Fault,
    FaultKind,
    Sandbox,
    SandboxOptions,
    Verdict,
    content_digest,
)

SINGLE, MULTIPLE = "/1/send/externaltrigger.json", "/2/send/externaltrigger.json"
HEADERS = {
    "X-CleverTap-Account-Id": "acc-1",
    "X-CleverTap-Passcode": "pass-1",
    "X-CleverTap-Token": "token-1",
}
CONTENT = {"Name": "A"}
ACCEPTED = {"message": "Added to queue for processing", "status": "success"}


def body(*recipients: str, campaigns: tuple[int, ...] = (1,)) -> dict[str, Any]:
    to = {"email": list(recipients or ("a@example.com",))}
    return {"to": to, "campaign_id_list": campaigns, "ExternalTrigger": CONTENT}


def post(sandbox: Sandbox, *recipients: str, timeout_seconds: float = 30) -> httpx.Response:
    """Send to campaign 1 with `/2`, over a connection of its own."""
    url = sandbox.url + MULTIPLE
    return httpx.post(url, headers=HEADERS, json=body(*recipients), timeout=timeout_seconds)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a thing that the ledger does not tell of."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to it"
        time.sleep(0.01)


@pytest.fixture
def control(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{sandbox.url}/_sandbox") as client:
        yield client


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


# Calls


def test_both_endpoints_accept_and_the_ledger_counts_the_pairs(sandbox: Sandbox) -> None:
    single = {"to": {"identity": ["u-1"]}, "campaign_id": "7", "ExternalTrigger": CONTENT}
    with httpx.Client(base_url=sandbox.url, headers=HEADERS) as client:
        first = client.post(SINGLE, json=single)
        second = client.post(MULTIPLE, json=body("a", "b", campaigns=(1, 2)))
    for answer in (first, second):
        assert (answer.status_code, answer.json()) == (200, ACCEPTED)
        assert answer.headers["Content-Type"].startswith("application/json")
    accepted = {(p.campaign, p.kind, p.recipient): p.contents for p in sandbox.ledger.pairs()}
    once = (content_digest(CONTENT),)
    assert accepted == {
        ("7", "identity", "u-1"): once,
        ("1", "email", "a"): once,
        ("1", "email", "b"): once,
        ("2", "email", "a"): once,
        ("2", "email", "b"): once,
    }
    assert [record.endpoint for record in sandbox.ledger.requests()] == [SINGLE, MULTIPLE]


def test_a_refused_call_is_recorded_and_accepts_nothing() -> None:
    options = SandboxOptions(credentials={"acc-1": Credentials("pass-1", "token-1")})
    with Sandbox(options) as sandbox:
        wrong = httpx.post(
            sandbox.url + MULTIPLE, headers=HEADERS | {"X-CleverTap-Passcode": "guess"}, json=body()
        )
        right = post(sandbox)
        records = sandbox.ledger.requests()
    assert (wrong.status_code, wrong.json()["error"]) == (401, "Invalid Credentials")
    assert right.status_code == 200
    assert [(r.verdict, r.status) for r in records] == [(Verdict.REFUSED, 401), (Verdict.ACCEPTED, 200)]
    assert "guess" not in f"{records} {wrong.text}"


def test_a_partial_answer_accepts_the_campaigns_that_run() -> None:
    with Sandbox(SandboxOptions(campaigns={"65": CampaignState.STOPPED})) as sandbox:
        answer = httpx.post(sandbox.url + MULTIPLE, headers=HEADERS, json=body("a", campaigns=(65, 66)))
        assert answer.status_code == 200
        assert answer.json()["status"] == "partial"
        assert "[65]" in answer.json()["error"]
        assert sandbox.ledger.times_accepted("65", "a") == 0
        assert sandbox.ledger.times_accepted("66", "a") == 1
        assert sandbox.ledger.requests()[0].verdict is Verdict.PARTIAL


def test_the_content_type_must_be_json(sandbox: Sandbox) -> None:
    url, payload = sandbox.url + MULTIPLE, json.dumps(body())

    def status(content_type: dict[str, str]) -> int:
        return httpx.post(url, headers=HEADERS | content_type, content=payload).status_code

    assert status({"Content-Type": "application/json; charset=utf-8"}) == 200
    assert status({"Content-Type": "text/plain"}) == 400
    assert status({}) == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", SINGLE, 405), ("PUT", MULTIPLE, 405), ("POST", "/3/send/externaltrigger.json", 404)],
)
def test_a_wrong_method_or_path_is_refused_in_the_vendors_shape(
    sandbox: Sandbox, method: str, path: str, status: int
) -> None:
    answer = httpx.request(method, sandbox.url + path, headers=HEADERS)
    assert answer.status_code == status
    assert answer.json() == {"status": "fail", "error": answer.json()["error"], "code": status}
    [record] = sandbox.ledger.requests()
    assert (record.endpoint, record.account, record.status) == (path, "acc-1", status)


def test_a_body_beyond_the_bound_is_refused() -> None:
    with Sandbox(SandboxOptions(max_body_bytes=1000)) as sandbox:
        answer = post(sandbox, "x" * 2000)
        assert (answer.status_code, answer.json()["error"]) == (413, "Payload is too large")
        assert sandbox.ledger.totals().verdicts == {Verdict.REFUSED: 1}


def test_a_client_that_leaves_in_mid_body_is_recorded_as_incomplete(sandbox: Sandbox) -> None:
    host, port = sandbox.url.removeprefix("http://").split(":")
    head = f"POST {MULTIPLE} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b'{"to":')
        sandbox.ledger.wait_for(lambda totals: totals.max_in_flight == {"": 1})
    totals = sandbox.ledger.wait_for(lambda totals: totals.requests == 1)
    assert totals.verdicts == {Verdict.INCOMPLETE: 1}
    assert totals.accepted == 0


# The ceiling


async def post_at_once(url: str, calls: int, account: str = "acc-1") -> list[httpx.Response]:
    headers = HEADERS | {"X-CleverTap-Account-Id": account}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        return await asyncio.gather(*(client.post(MULTIPLE, json=body(f"r{n}")) for n in range(calls)))


def test_a_request_over_the_ceiling_is_answered_429_while_the_others_wait() -> None:
    with Sandbox(SandboxOptions(latency_ms=1000)) as sandbox:
        answers = asyncio.run(post_at_once(sandbox.url, 5))
        totals = sandbox.ledger.totals()
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429, 429]
    over = [answer.json() for answer in answers if answer.status_code == 429]
    assert over == [{"status": "fail", "error": "Too many concurrent requests", "code": 429}] * 2
    assert totals.verdicts == {Verdict.ACCEPTED: 3, Verdict.OVER_LIMIT: 2}
    assert totals.max_in_flight["acc-1"] >= 4
    assert totals.accepted == 3


def test_the_ceiling_is_each_accounts_own() -> None:
    async def both(url: str) -> list[httpx.Response]:
        one, two = await asyncio.gather(post_at_once(url, 3, "acc-1"), post_at_once(url, 3, "acc-2"))
        return one + two

    with Sandbox(SandboxOptions(latency_ms=1000)) as sandbox:
        answers = asyncio.run(both(sandbox.url))
        assert sandbox.ledger.totals().max_in_flight == {"acc-1": 3, "acc-2": 3}
    assert [answer.status_code for answer in answers] == [200] * 6


def test_three_clients_that_wait_for_each_answer_are_never_over_the_ceiling(sandbox: Sandbox) -> None:
    async def one_after_another(client: httpx.AsyncClient) -> set[int]:
        return {(await client.post(MULTIPLE, json=body())).status_code for _ in range(200)}

    async def all_three() -> list[set[int]]:
        async with httpx.AsyncClient(base_url=sandbox.url, headers=HEADERS) as client:
            return await asyncio.gather(*(one_after_another(client) for _ in range(3)))

    assert asyncio.run(all_three()) == [{200}] * 3
    assert sandbox.ledger.max_in_flight("acc-1") <= 3
    assert sandbox.ledger.times_accepted("1", "a@example.com") == 600


def test_the_ceiling_can_be_changed_while_it_runs(sandbox: Sandbox) -> None:
    sandbox.change(ceiling=1, latency_ms=1000)
    lowered = asyncio.run(post_at_once(sandbox.url, 4))
    sandbox.change(ceiling=4)
    raised = asyncio.run(post_at_once(sandbox.url, 4))
    assert sorted(answer.status_code for answer in lowered) == [200, 429, 429, 429]
    assert [answer.status_code for answer in raised] == [200] * 4


def test_a_client_that_gives_up_keeps_its_place_until_the_latency_has_passed() -> None:
    with Sandbox(SandboxOptions(ceiling=1, latency_ms=2000)) as sandbox:
        with pytest.raises(httpx.ReadTimeout):
            post(sandbox, "patient", timeout_seconds=0.3)
        assert post(sandbox, "next").status_code == 429
        assert sandbox.ledger.times_accepted("1", "patient") == 1
        sandbox.change(latency_ms=0)
        until(lambda: post(sandbox, "last").status_code == 200)


# Faults


@pytest.mark.parametrize("status", [401, 403, 404, 405, 409, 429, 500, 502, 503, 504])
def test_a_fault_answers_with_its_status_once_and_accepts_nothing(sandbox: Sandbox, status: int) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=status, times=1))
    first = post(sandbox)
    assert first.status_code == status
    assert (first.json()["status"], first.json()["code"]) == ("fail", status)
    assert "Retry-After" not in first.headers
    assert sandbox.ledger.totals().accepted == 0
    assert post(sandbox).status_code == 200
    assert sandbox.ledger.totals().verdicts == {Verdict.FAILED: 1, Verdict.ACCEPTED: 1}


def test_a_fault_answers_with_a_retry_after(sandbox: Sandbox) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=429, retry_after="7"))
    assert post(sandbox).headers["Retry-After"] == "7"


def test_a_fault_answers_200_with_status_fail(sandbox: Sandbox) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=200))
    answer = post(sandbox)
    assert (answer.status_code, answer.json()["status"]) == (200, "fail")
    assert sandbox.ledger.totals().accepted == 0


@pytest.mark.parametrize("text", ["", "<html>busy</html>"])
def test_a_fault_answers_with_a_body_that_is_not_json(sandbox: Sandbox, text: str) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=200, body=text))
    answer = post(sandbox)
    assert (answer.status_code, answer.text) == (200, text)


def test_an_answer_after_accepting_hides_that_the_call_was_accepted(sandbox: Sandbox) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=504, after_accepting=True))
    assert post(sandbox).status_code == 504
    [record] = sandbox.ledger.requests()
    assert (record.verdict, record.status, record.fault) == (Verdict.ACCEPTED, 504, FaultKind.ANSWER)
    assert sandbox.ledger.times_accepted("1", "a@example.com") == 1


@pytest.mark.parametrize(
    ("after_accepting", "verdict"), [(False, Verdict.CUT), (True, Verdict.ACCEPTED)], ids=["before", "after"]
)
def test_a_cut_closes_the_connection_before_or_after_accepting(
    sandbox: Sandbox, after_accepting: bool, verdict: Verdict
) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.CUT, times=1, after_accepting=after_accepting))
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        post(sandbox)
    [record] = sandbox.ledger.requests()
    assert (record.verdict, record.status, record.fault) == (verdict, None, FaultKind.CUT)
    assert sandbox.ledger.times_accepted("1", "a@example.com") == int(after_accepting)
    assert post(sandbox).status_code == 200
    assert sandbox.ledger.totals().duplicates == int(after_accepting)


@pytest.mark.parametrize(
    ("after_accepting", "verdict"), [(False, Verdict.HUNG), (True, Verdict.ACCEPTED)], ids=["before", "after"]
)
def test_a_call_that_hangs_keeps_its_place_until_its_client_leaves(
    after_accepting: bool, verdict: Verdict
) -> None:
    async def hang(sandbox: Sandbox) -> None:
        async with httpx.AsyncClient(base_url=sandbox.url, headers=HEADERS, timeout=60) as client:
            call = asyncio.create_task(client.post(MULTIPLE, json=body("hung")))
            await asyncio.to_thread(sandbox.ledger.wait_for, lambda totals: totals.requests == 1)
            assert (await asyncio.to_thread(post, sandbox, "next")).status_code == 429
            assert not call.done()
            call.cancel()

    fault = Fault(kind=FaultKind.HANG, times=1, after_accepting=after_accepting)
    with Sandbox(SandboxOptions(ceiling=1, faults=(fault,))) as sandbox:
        asyncio.run(hang(sandbox))
        until(lambda: post(sandbox, "last").status_code == 200)
        assert sandbox.ledger.requests()[0].verdict is verdict
        assert sandbox.ledger.times_accepted("1", "hung") == int(after_accepting)


def test_a_call_that_the_rules_refuse_is_not_accepted_by_a_fault_after_accepting(sandbox: Sandbox) -> None:
    sandbox.change(bad_recipients=frozenset({"bad"}))
    sandbox.add_fault(Fault(kind=FaultKind.CUT, after_accepting=True))
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        post(sandbox, "bad")
    assert sandbox.ledger.totals().verdicts == {Verdict.REFUSED: 1}
    assert sandbox.ledger.totals().accepted == 0


def test_a_trickled_answer_arrives_in_pieces_and_complete(sandbox: Sandbox) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.TRICKLE, interval_ms=2))
    url = sandbox.url + MULTIPLE
    with httpx.stream("POST", url, headers=HEADERS, json=body(), timeout=30) as answer:
        pieces = list(answer.iter_raw())
    assert len(pieces) > 1
    assert json.loads(b"".join(pieces)) == ACCEPTED
    assert sandbox.ledger.totals().verdicts == {Verdict.ACCEPTED: 1}


def test_a_trickled_answer_frees_its_place_when_the_client_leaves() -> None:
    fault = Fault(kind=FaultKind.TRICKLE, interval_ms=500, times=1)  # over half a minute in all
    with Sandbox(SandboxOptions(ceiling=1, faults=(fault,))) as sandbox:
        url = sandbox.url + MULTIPLE
        with httpx.stream("POST", url, headers=HEADERS, json=body(), timeout=30) as answer:
            next(answer.iter_raw())
            assert post(sandbox).status_code == 429
        until(lambda: post(sandbox).status_code == 200)


@pytest.mark.parametrize("latency_ms", [150, (150, 200)], ids=["fixed", "uniform"])
def test_a_delay_holds_back_the_answer_only_of_the_calls_it_claims(
    sandbox: Sandbox, latency_ms: float | tuple[float, float]
) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.DELAY, latency_ms=latency_ms, recipient="slow"))
    begin = time.monotonic()
    answer = post(sandbox, "slow")
    assert time.monotonic() - begin >= 0.15
    assert answer.json() == ACCEPTED
    assert post(sandbox, "quick").json() == ACCEPTED
    faults = [record.fault for record in sandbox.ledger.requests()]
    assert faults == [FaultKind.DELAY, None]


def test_a_fault_touches_only_the_campaign_and_the_recipient_it_names(sandbox: Sandbox) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=500, recipient="b"))
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=502, campaign="2"))

    def status(*recipients: str, campaign: int) -> int:
        payload = body(*recipients, campaigns=(campaign,))
        return httpx.post(sandbox.url + MULTIPLE, headers=HEADERS, json=payload).status_code

    assert status("a", campaign=1) == 200
    assert status("a", "b", campaign=2) == 500
    assert status("a", campaign=2) == 502
    sandbox.clear_faults()
    assert status("a", "b", campaign=2) == 200


# The control API


def test_the_ledger_can_be_read_over_http(sandbox: Sandbox, control: httpx.Client) -> None:
    post(sandbox, "a", "b")
    post(sandbox, "b")
    assert control.get("/ledger").json() == {
        "requests": 2,
        "verdicts": {"accepted": 2},
        "accepted": 3,
        "pairs": 2,
        "duplicates": 1,
        "max_in_flight": {"acc-1": 1},
        "in_flight": {},
    }
    digest = content_digest(CONTENT)
    row = {"account": "acc-1", "campaign": "1", "kind": "email"}
    assert lines(control.get("/ledger/pairs")) == [
        row | {"recipient": "a", "count": 1, "contents": [digest]},
        row | {"recipient": "b", "count": 2, "contents": [digest, digest]},
    ]


def test_pairs_are_streamed_however_many_they_are(sandbox: Sandbox, control: httpx.Client) -> None:
    for batch in range(5):
        post(sandbox, *(f"{batch}-{n}" for n in range(1000)))
    pairs = lines(control.get("/ledger/pairs"))
    assert {pair["recipient"] for pair in pairs} == {f"{b}-{n}" for b in range(5) for n in range(1000)}
    assert len(pairs) == 5000


def test_requests_are_listed_with_their_bodies_and_without_credentials(
    sandbox: Sandbox, control: httpx.Client
) -> None:
    for recipient in ("a", "b", "c"):
        post(sandbox, recipient)
    rows = lines(control.get("/requests", params={"limit": 2}))
    assert [row["sequence"] for row in rows] == [2, 3]
    assert [json.loads(row["body"])["to"] for row in rows] == [{"email": ["b"]}, {"email": ["c"]}]
    assert rows[0]["verdict"] == "accepted"
    assert rows[0]["received_at_ms"] <= rows[1]["received_at_ms"]
    everything = control.get("/requests").text
    assert len(everything.splitlines()) == 3
    assert "pass-1" not in everything
    assert "token-1" not in everything
    assert control.get("/requests", params={"limit": "x"}).status_code == 400


def test_faults_are_set_listed_and_removed_over_http(sandbox: Sandbox, control: httpx.Client) -> None:
    fault = {"kind": "answer", "status": 503, "times": 3, "campaign": "1", "latency_ms": [0, 1]}
    assert control.post("/faults", json=fault).status_code == 200
    assert post(sandbox).status_code == 503
    [listed] = control.get("/faults").json()
    assert listed | fault == listed
    assert listed["remaining"] == 2
    assert control.delete("/faults").status_code == 200
    assert control.get("/faults").json() == []
    assert post(sandbox).status_code == 200


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "explode"}, "kind"),
        ({"kind": "cut", "colour": "red"}, "unknown: colour"),
        ({"kind": "cut", "times": 0}, "times must be at least 1"),
        ({}, "kind"),
        ([], "must be a JSON object"),
    ],
)
def test_a_fault_that_makes_no_sense_is_answered_with_the_reason(
    control: httpx.Client, fault: object, words: str
) -> None:
    answer = control.post("/faults", json=fault)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert control.get("/faults").json() == []


def test_the_scenario_is_changed_over_http_and_what_is_not_named_stays(
    sandbox: Sandbox, control: httpx.Client
) -> None:
    changes = {
        "ceiling": 5,
        "campaigns": {"1": "stopped"},
        "other_campaigns": "missing",
        "bad_recipients": ["x@example.com"],
        "credentials": {"acc-1": {"passcode": "pass-1", "token": "token-1"}},
        "latency_ms": [1, 2],
    }
    answer = control.put("/state", json=changes)
    assert answer.status_code == 200
    assert answer.json() == control.get("/state").json()
    shown = {name: value for name, value in changes.items() if name != "credentials"}
    assert answer.json() == shown | {
        "accounts": ["acc-1"],
        "credentials_refused_with": 401,
        "external_trigger_enabled": True,
        "single_max_recipients": 1,
    }
    assert "pass-1" not in answer.text
    assert post(sandbox).json()["status"] == "partial"
    control.put("/state", json={"external_trigger_enabled": False, "credentials": None})
    assert post(sandbox).json()["error"] == "External Trigger is not enabled for this account"
    assert control.get("/state").json()["ceiling"] == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ceiling": -1}, "ceiling must not be negative"),
        ({"ceiling": "many"}, "integer"),
        ({"campaigns": {"1": "asleep"}}, "running"),
        ({"host": "0.0.0.0"}, "unknown: host"),  # noqa: S104 - refused
        ({"credentials": {"acc-1": {"passcode": ["secret-1"]}}}, "passcode"),
    ],
)
def test_a_wrong_change_is_answered_with_the_reason_and_changes_nothing(
    control: httpx.Client, changes: dict[str, Any], words: str
) -> None:
    before = control.get("/state").json()
    answer = control.put("/state", json={"single_max_recipients": 9} | changes)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert "secret-1" not in answer.text
    assert control.get("/state").json() == before


def test_a_reset_returns_to_the_start() -> None:
    options = SandboxOptions(ceiling=2, faults=(Fault(kind=FaultKind.ANSWER, status=500, times=1),))
    with Sandbox(options) as sandbox, httpx.Client(base_url=f"{sandbox.url}/_sandbox") as control:
        start = control.get("/state").json()
        assert post(sandbox).status_code == 500
        assert post(sandbox).status_code == 200
        sandbox.change(ceiling=9)
        assert control.post("/reset").status_code == 200
        assert control.get("/state").json() == start
        assert sandbox.ledger.totals().requests == 0
        assert post(sandbox).status_code == 500


def test_an_unknown_control_path_says_so_and_is_no_call(sandbox: Sandbox, control: httpx.Client) -> None:
    assert control.get("/nothing").status_code == 404
    assert sandbox.ledger.totals().requests == 0


# Running


def test_a_sandbox_stops_with_calls_in_flight_and_leaves_others_alone() -> None:
    async def stop_while_a_call_hangs(other: Sandbox) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            with Sandbox(SandboxOptions(faults=(Fault(kind=FaultKind.HANG),))) as sandbox:
                url = sandbox.url + MULTIPLE
                call = asyncio.create_task(client.post(url, headers=HEADERS, json=body()))
                await asyncio.to_thread(sandbox.ledger.wait_for, lambda totals: totals.requests == 1)
            with pytest.raises(httpx.HTTPError):
                await call
            assert (await client.post(other.url + MULTIPLE, headers=HEADERS, json=body())).is_success

    with Sandbox() as other:
        asyncio.run(stop_while_a_call_hangs(other))
        assert other.ledger.totals().requests == 1


def test_a_port_that_is_taken_is_an_error_at_once(sandbox: Sandbox) -> None:
    taken = int(sandbox.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"), Sandbox(SandboxOptions(port=taken)):
        pass


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_sandbox_in_the_foreground_ends_cleanly_on_a_signal(signal_number: int) -> None:
    program = (
        "from worker.clevertap.sandbox import SandboxOptions, serve\n"
        "serve(SandboxOptions(), lambda url: print(url, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            answer = httpx.post(url + MULTIPLE, headers=HEADERS, json=body())
            assert answer.json() == ACCEPTED
            process.send_signal(signal_number)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
