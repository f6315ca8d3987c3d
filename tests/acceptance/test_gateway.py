"""`volley gateway` as a process: killed under load, and told to stop under load."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from worker.store.connection import RedisClient

if TYPE_CHECKING:
    from tests.conftest import Eventually, Process, Processes

STREAM = "volley:{default}:intake"
CALLERS = 6


@pytest.fixture
def start(redis_url: str, processes: Processes, eventually: Eventually) -> Callable[[], tuple[Process, str]]:
    """Starts a gateway and gives it with its URL, which is its first line."""

    def begin() -> tuple[Process, str]:
        started = processes.python(
            "-m",
            "worker",
            "gateway",
            "--port",
            "0",
            environ={
                "VOLLEY_REDIS_URL": redis_url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "gateway-passcode-1",
            },
        )
        eventually(lambda: "http://" in started.output or not started.is_running)
        return started, next(line for line in started.output.splitlines() if line.startswith("http://"))

    return begin


class Callers:
    """Apps that call one after the other, each call with its own id and key, until they are told to stop."""

    def __init__(self, url: str) -> None:
        self.confirmed: set[str] = set()
        self.unsure: set[str] = set()
        self.other: Counter[int] = Counter()
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(who,)) for who in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, who: int) -> None:
        for number in range(1_000_000):
            if self._stop.is_set():
                return
            name = f"{who}-{number}"
            try:
                code = post(self._url, name)
            except (OSError, http.client.HTTPException):
                self.unsure.add(name)
                return  # the gateway is gone
            if code == 200:
                self.confirmed.add(name)
            else:
                self.other[code] += 1


def post(url: str, name: str) -> int:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    body = {"to": {"identity": [name]}, "campaign_id": "65", "ExternalTrigger": {}, "id": name}
    headers = {
        "X-CleverTap-Account-Id": "account",
        "X-CleverTap-Passcode": "gateway-passcode-1",
        "Content-Type": "application/json",
        "Idempotency-Key": name,
    }
    try:
        connection.request("POST", "/1/send/externaltrigger.json", json.dumps(body), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _has_confirmed(callers: Callers, many: int) -> bool:
    return len(callers.confirmed) > many


def kept(client: RedisClient) -> Iterator[str]:
    for _, fields in client.xrange(STREAM):
        yield json.loads(fields[b"trigger"])["id"]


def test_a_gateway_killed_under_load_loses_nothing_that_it_confirmed(
    start: Any, client: RedisClient, eventually: Eventually
) -> None:
    confirmed: set[str] = set()
    for _ in range(2):
        gateway, url = start()
        callers = Callers(url)
        try:
            eventually(partial(_has_confirmed, callers, 100))
        finally:
            gateway.kill()
            callers.join()
        assert not callers.other
        assert callers.unsure, "it was killed under load"
        confirmed |= callers.confirmed
        there = set(kept(client))
        assert confirmed <= there
        assert there - confirmed <= callers.unsure
        # Each app that got no answer asks again, with the key of its call: it is there once.
        heir, url = start()
        assert [post(url, name) for name in sorted(callers.unsure)] == [200] * len(callers.unsure)
        assert sorted(kept(client)) == sorted(confirmed | callers.unsure)
        heir.kill()
        client.delete(STREAM)
        confirmed.clear()
        for key in client.keys("volley:{default}:nonce:*"):
            client.delete(key)


def test_a_gateway_that_is_told_to_stop_answers_the_calls_that_it_has(
    start: Any, client: RedisClient, eventually: Eventually
) -> None:
    gateway, url = start()
    parts = urllib.parse.urlsplit(url)
    body = json.dumps(
        {"to": {"identity": ["slow"]}, "campaign_id": "65", "ExternalTrigger": {}, "id": "slow"}
    )
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=60) as slow:
        slow.sendall(
            "POST /1/send/externaltrigger.json HTTP/1.1\r\nHost: x\r\nX-CleverTap-Account-Id: account\r\n"
            "X-CleverTap-Passcode: gateway-passcode-1\r\nContent-Type: application/json\r\n"
            f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        assert b" 100 " in slow.recv(65_536), "its handler waits for the body"
        gateway.send(signal.SIGTERM)

        def refused() -> bool:
            try:
                post(url, "late")
            except OSError:
                return True
            return False

        eventually(refused)
        slow.sendall(body.encode())
        assert b" 200 " in slow.recv(65_536)
    assert gateway.wait() == 0
    assert "slow" in set(kept(client))
    assert "Traceback" not in gateway.output
    assert "passcode-1" not in gateway.output


def test_a_port_in_use_and_missing_accounts_are_one_sentence(processes: Processes, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = {
            "VOLLEY_REDIS_URL": redis_url,
            "VOLLEY_ACCOUNT_ID": "account",
            "VOLLEY_PASSCODE": "gateway-passcode-1",
        }
        refused = processes.python("-m", "worker", "gateway", "--port", str(port), environ=environ)
        assert refused.wait() == 1
        assert (
            refused.output
            == f"volley: 127.0.0.1 port {port} cannot be listened on: Address already in use.\n"
        )
        none = processes.python("-m", "worker", "gateway", environ={"VOLLEY_REDIS_URL": redis_url})
        assert none.wait() == 2
        assert none.output.startswith("volley: No account is configured")
