"""`volley sandbox` as a process."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Eventually, Process, Processes

TRIGGER = {"to": {"email": ["a@example.com"]}, "campaign_id": "5", "ExternalTrigger": {"Name": "A"}}


def start(processes: Processes, eventually: Eventually, *options: str) -> tuple[Process, str]:
    """The process and its URL, which is its first line."""
    started = processes.python("-m", "worker", "sandbox", "--port", "0", *options)
    eventually(lambda: "/_sandbox/ledger" in started.output or not started.is_running)
    url = next(line for line in started.output.splitlines() if line.startswith("http://"))
    return started, url


def post(url: str) -> int:
    request = urllib.request.Request(  # noqa: S310  # the sandbox's own URL
        f"{url}/1/send/externaltrigger.json",
        data=json.dumps(TRIGGER).encode(),
        headers={
            "Content-Type": "application/json",
            "X-CleverTap-Account-Id": "a",
            "X-CleverTap-Passcode": "b",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # as above
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_it_prints_its_url_answers_and_ends_at_ctrl_c(processes: Processes, eventually: Eventually) -> None:
    started, url = start(processes, eventually)
    assert f"VOLLEY_BASE_URL={url}" in started.output
    assert post(url) == 200
    with urllib.request.urlopen(f"{url}/_sandbox/ledger", timeout=10) as ledger:  # noqa: S310  # as above
        assert json.load(ledger)["accepted"] == 1
    started.send(signal.SIGINT)
    assert started.wait() == 0


def test_it_fails_as_it_is_told(processes: Processes, eventually: Eventually) -> None:
    _, url = start(processes, eventually, "--fault", '{"kind": "answer", "status": 503, "times": 1}')
    assert [post(url), post(url)] == [503, 200]
    _, url = start(processes, eventually, "--campaign", "5=stopped")
    assert post(url) != 200
    _, url = start(processes, eventually, "--bad-recipient", "a@example.com")
    assert post(url) == 400
    _, url = start(processes, eventually, "--ceiling", "0", "--latency-ms", "0-1")
    assert post(url) == 429


def test_wrong_options_are_usage_errors(processes: Processes) -> None:
    for option, value in (
        ("--latency-ms", "fast"),
        ("--latency-ms", "5-1"),
        ("--campaign", "5=asleep"),
        ("--fault", '{"kind": "explode"}'),
        ("--fault", '{"kind": "cut", "tims": 1}'),
        ("--fault", "cut"),
        ("--port", "65536"),
    ):
        refused = processes.python("-m", "worker", "sandbox", "--port", "0", option, value)
        assert refused.wait() == 2
        assert "Traceback" not in refused.output


def test_a_port_in_use_is_said_in_one_sentence(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = processes.python("-m", "worker", "sandbox", "--port", str(port))
        assert refused.wait() == 1
    assert refused.output == f"volley: 127.0.0.1 port {port} cannot be listened on: Address already in use.\n"
