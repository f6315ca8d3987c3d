"""The gateway: the vendor's calls, taken by Volley, on real sockets."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from config.settings import Settings, load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Sandbox
from worker.core.model import Status
from worker.engine import Engine
from worker.gateway import Gateway, Options
from worker.store import open_store
from worker.store.connection import RedisClient, connect
from worker.store.embedded import EmbeddedServer

STREAM = "volley:{default}:intake"
HEADERS = {
    "X-CleverTap-Account-Id": "gateway-account",
    "X-CleverTap-Passcode": "gateway-passcode",
    "X-CleverTap-Token": "gateway-token",
}
SINGLE = {"to": {"email": ["a@example.com"]}, "campaign_id": "65", "ExternalTrigger": {"Name": "A"}}
MULTIPLE = {
    "to": {"email": ["a@example.com"], "identity": ["u-17"]},
    "campaign_id_list": [65, 66],
    "ExternalTrigger": {"Name": "A", "items": [{"price": "$10"}]},
}
SUCCESS = {"message": "Added to queue for processing", "status": "success"}

Start = Callable[..., str]


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    return {
        "VOLLEY_REDIS_URL": redis_url,
        "VOLLEY_ACCOUNT_ID": "gateway-account",
        "VOLLEY_PASSCODE": "gateway-passcode",
        "VOLLEY_TOKEN": "gateway-token",
    }


@pytest.fixture
def start(environ: dict[str, str]) -> Iterator[Start]:
    """`start(max_calls=..., VOLLEY_...=...)`: a gateway's URL."""
    running: list[Gateway] = []

    def begin(*, options: Options | None = None, **more: str) -> str:
        gateway = Gateway(load(environ | more), options)
        gateway.__enter__()
        running.append(gateway)
        return gateway.url

    yield begin
    for gateway in running:
        gateway.__exit__(None, None, None)


@pytest.fixture
def url(start: Start) -> str:
    return start()


def post(url: str, body: object = SINGLE, *, version: int = 1, **headers: str | None) -> httpx.Response:
    """A call as an app makes it; a header that is None is left out, `_` stands for `-`."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {
        name: value
        for name, value in {**HEADERS, "Content-Type": "application/json", **changed}.items()
        if value is not None
    }
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with httpx.Client(trust_env=False) as http:
        return http.post(
            f"{url}/{version}/send/externaltrigger.json", content=content, headers=given, timeout=60
        )


def kept(client: RedisClient, stream: str = STREAM) -> list[Any]:
    return [json.loads(fields[b"trigger"]) for _, fields in client.xrange(stream)]


@pytest.mark.parametrize(("version", "body"), [(1, SINGLE), (2, MULTIPLE)])
def test_a_call_is_answered_as_the_vendor_does_and_is_in_the_intake_as_it_came(
    url: str, client: RedisClient, version: int, body: dict[str, Any]
) -> None:
    answer = post(url, body, version=version)
    assert (answer.status_code, answer.json()) == (200, SUCCESS)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert kept(client) == [body]
    ((entry, _),) = client.xrange(STREAM)
    assert answer.headers["X-Volley-Trigger"] == entry.decode()


def test_what_the_gateway_took_is_accepted_by_the_api(
    environ: dict[str, str], start: Start, sandbox: Sandbox
) -> None:
    url = start()
    for person in ("a", "b", "a"):
        assert post(url, MULTIPLE | {"to": {"identity": [person]}}, version=2).status_code == 200
    settings = load(environ | {"VOLLEY_BASE_URL": sandbox.url})
    store = open_store(settings, "default")
    with Client() as http:
        engine = Engine(settings, settings.account(), store, http)
        while store.status().intake:
            engine.wait_and_accept(0.01, lambda: False)
        engine.deliver(60, lambda: False)
    status = store.status()
    store.close()
    assert status.total(Status.ACCEPTED) == 4
    assert status.total(Status.DUPLICATE) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"to": {"identity": ["u"]}, "campaign_id": "65", "content": {"Name": "A"}},
        {"to": {"identity": ["u"]}, "campaign_id": [65, 66], "ExternalTrigger": {}},
        {"d": [SINGLE, MULTIPLE]},
        SINGLE | {"id": "order-1", "priority": "urgent", "dedupe_key": "k", "source": "shop"},
        MULTIPLE
        | {"to": {"identity": [f"u{i}" for i in range(3000)]}, "campaign_id_list": list(range(1, 9))},
    ],
    ids=["content", "list under campaign_id", "wrapped", "keys of ours", "beyond the API's size"],
)
def test_variants_of_the_vendors_samples_and_optional_keys_are_taken(
    url: str, client: RedisClient, body: dict[str, Any]
) -> None:
    assert post(url, body).status_code == 200
    assert kept(client) == [body]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "trigger: is not JSON (at character 0)"),
        (b'{"to"', "trigger: is not JSON"),
        (b"[]", "must be"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (SINGLE | {"to": {}}, "to: names no recipient"),
        ({"campaign_id": "65", "ExternalTrigger": {}}, "to: is missing"),
        (SINGLE | {"to": {"email": ["secret.person"]}}, "to.email[0]: is not an e-mail address"),
        (SINGLE | {"campaign_id": "no number"}, "campaign_id: must be an integer"),
        (SINGLE | {"ExternalTrigger": {"a": 1}}, "ExternalTrigger.a: must be a string"),
        (SINGLE | {"extra": 1}, "extra"),
    ],
)
def test_what_a_worker_could_not_accept_is_refused_in_the_vendors_shape(
    url: str, client: RedisClient, body: object, error: str
) -> None:
    answer = post(url, body)
    assert answer.status_code == 400
    said = answer.json()
    assert (said["status"], said["code"], sorted(said)) == ("fail", 400, ["code", "error", "status"])
    assert error in said["error"]
    assert "secret" not in answer.text
    assert kept(client) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X_CleverTap_Account_Id": "other"},
        {"X_CleverTap_Account_Id": None},
        {"X_CleverTap_Passcode": "gateway-passcodE"},
        {"X_CleverTap_Passcode": ""},
        {"X_CleverTap_Passcode": None},
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_wrong_credentials_are_refused(
    url: str, client: RedisClient, headers: dict[str, str | None], version: int
) -> None:
    answer = post(url, version=version, **headers)
    assert answer.status_code == 401
    assert answer.json() == {"status": "fail", "error": "Invalid Credentials", "code": 401}
    assert kept(client) == []


@pytest.mark.parametrize("passcode", [b"gateway-passcode\xa0", b"\xff\xfe", "gateway-p\u0430sscode".encode()])
def test_a_passcode_of_any_bytes_is_only_wrong(url: str, client: RedisClient, passcode: bytes) -> None:
    assert raw(url, passcode)[0] == 401
    assert raw(url, b"gateway-passcode") == (200, SUCCESS)
    assert len(kept(client)) == 1


def raw(url: str, passcode: bytes) -> tuple[int, Any]:
    """A call with a passcode of any bytes."""
    body = json.dumps(SINGLE).encode()
    head = (
        "POST /1/send/externaltrigger.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "X-CleverTap-Account-Id: gateway-account\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nX-CleverTap-Passcode: "
    ).encode()
    answer = exchange(url, head + passcode + b"\r\n\r\n" + body)
    top, _, said = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(said)


def exchange(url: str, request: bytes, *, leave: bool = False) -> bytes:
    """Sends bytes, and reads until the gateway closes; or leaves, having sent them."""
    parts = urllib.parse.urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=60) as connection:
        connection.sendall(request)
        if leave:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    return answer


def test_only_the_second_api_needs_the_token(url: str, start: Start) -> None:
    assert post(url, SINGLE, version=1, X_CleverTap_Token=None).status_code == 200
    assert post(url, MULTIPLE, version=2, X_CleverTap_Token=None).status_code == 401
    assert post(url, MULTIPLE, version=2, X_CleverTap_Token="other").status_code == 401
    without = start(VOLLEY_TOKEN="")
    assert post(without, MULTIPLE, version=2, X_CleverTap_Token="").status_code == 401
    assert post(without, SINGLE, version=1, X_CleverTap_Token="").status_code == 200


def test_a_header_given_twice_is_no_credential(url: str, client: RedisClient) -> None:
    body = json.dumps(SINGLE).encode()
    head = (
        "POST /1/send/externaltrigger.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "X-CleverTap-Account-Id: gateway-account\r\nX-CleverTap-Passcode: gateway-passcode\r\n"
        "X-CleverTap-Passcode: gateway-passcode\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    assert b" 401 " in exchange(url, head + body).split(b"\r\n")[0]
    assert kept(client) == []


def test_each_account_has_its_own_intake(
    start: Start, client: RedisClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "volley.toml"
    file.write_text('[accounts.shop]\naccount_id = "SHOP"\npasscode = "shop-passcode"\n')
    url = start(VOLLEY_CONFIG=str(file))
    shop: dict[str, Any] = {"X_CleverTap_Account_Id": "SHOP", "X_CleverTap_Passcode": "shop-passcode"}
    assert post(url, SINGLE, **shop).status_code == 200
    assert post(url, SINGLE | {"campaign_id": "66"}).status_code == 200
    assert post(url, SINGLE, X_CleverTap_Account_Id="SHOP").status_code == 401
    assert kept(client, "volley:{shop}:intake") == [SINGLE]
    assert kept(client) == [SINGLE | {"campaign_id": "66"}]


def test_a_repeated_call_with_its_key_is_one_append(url: str, start: Start, client: RedisClient) -> None:
    first = post(url, Idempotency_Key="order-1")
    again = post(start(), Idempotency_Key="order-1")
    assert first.json() == again.json() == SUCCESS
    assert first.headers["X-Volley-Trigger"] == again.headers["X-Volley-Trigger"]
    other = post(url, SINGLE | {"campaign_id": "66"}, Idempotency_Key="order-1")
    assert (other.status_code, other.json()["status"]) == (409, "fail")
    assert post(url, Idempotency_Key="order-2").status_code == 200
    assert kept(client) == [SINGLE, SINGLE]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_key_that_is_none_is_refused(url: str, client: RedisClient, key: str) -> None:
    assert post(url, Idempotency_Key=key).status_code == 400
    assert kept(client) == []


def test_other_paths_methods_and_media_are_refused_in_the_vendors_shape(
    url: str, client: RedisClient
) -> None:
    with httpx.Client(base_url=url, trust_env=False) as http:
        answers = {
            404: http.post("/3/send/externaltrigger.json", headers=HEADERS, json=SINGLE),
            405: http.get("/1/send/externaltrigger.json", headers=HEADERS),
        }
    answers[400] = post(url, Content_Type="text/plain")
    answers[401] = post(url, X_CleverTap_Passcode="wrong", Content_Type="text/plain")
    for code, answer in answers.items():
        assert (answer.status_code, answer.json()["status"], answer.json()["code"]) == (code, "fail", code)
    assert post(url, Content_Type="application/json; charset=utf-8").status_code == 200
    assert len(kept(client)) == 1


def test_a_compressed_body_is_refused_unread(url: str, client: RedisClient) -> None:
    import gzip

    bomb = gzip.compress(json.dumps(SINGLE | {"pad": "x" * 10_000_000}).encode())
    assert post(url, bomb, Content_Encoding="gzip").status_code == 400
    assert kept(client) == []


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(
    start: Start, client: RedisClient
) -> None:
    url = start(VOLLEY_MAX_TRIGGER_BYTES="2048")
    long = SINGLE | {"ExternalTrigger": {"Name": "x" * 3000}}
    assert post(url, long).status_code == 413

    def pieces() -> Iterator[bytes]:
        yield from (b"x" * 1000 for _ in range(5))

    with httpx.Client(trust_env=False) as http:
        chunked = http.post(
            f"{url}/1/send/externaltrigger.json",
            content=pieces(),
            headers={**HEADERS, "Content-Type": "application/json"},
        )
    assert (chunked.status_code, chunked.json()["code"]) == (413, 413)
    assert kept(client) == []


def test_a_body_that_stops_arriving_is_given_up(start: Start, client: RedisClient) -> None:
    url = start(options=Options(port=0, body_seconds=0.2))
    parts = urllib.parse.urlsplit(url)
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=60) as connection:
        connection.sendall(
            f"POST /1/send/externaltrigger.json HTTP/1.1\r\nHost: x\r\n{head}"
            f"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode()
        )
        assert b" 408 " in connection.recv(65_536)
    assert post(url).status_code == 200
    assert len(kept(client)) == 1


def test_a_caller_that_leaves_in_the_middle_leaves_nothing(url: str, client: RedisClient) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    request = (
        f"POST /1/send/externaltrigger.json HTTP/1.1\r\nHost: x\r\n{head}"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    exchange(url, request.encode(), leave=True)
    assert post(url).status_code == 200
    assert len(kept(client)) == 1


def test_more_calls_than_may_be_open_are_answered_429(start: Start, client: RedisClient) -> None:
    url = start(options=Options(port=0, max_calls=1))
    parts = urllib.parse.urlsplit(url)
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    body = json.dumps(SINGLE).encode()
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=60) as slow:
        slow.sendall(
            f"POST /1/send/externaltrigger.json HTTP/1.1\r\nHost: x\r\n{head}Expect: 100-continue\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        assert b" 100 " in slow.recv(65_536), "its handler waits for the body"
        refused = _until(lambda: post(url), lambda answer: answer.status_code == 429)
        assert refused.json() == {"status": "fail", "error": "Too many concurrent requests", "code": 429}
        assert refused.headers["Retry-After"] == "1"
        slow.sendall(body)
        assert b" 200 " in slow.recv(65_536)
    _until(lambda: post(url), lambda answer: answer.status_code == 200)


def _until(act: Callable[[], httpx.Response], fits: Callable[[httpx.Response], bool]) -> httpx.Response:
    deadline = time.monotonic() + 60
    while not fits(answer := act()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.01)
    return answer


def test_bytes_that_are_no_http_are_no_trouble_and_not_logged(
    url: str, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    for request in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /1/send/externaltrigger.json HTTP/1.1\r\nX-CleverTap-Passcode: gateway-passcode\x00\r\n\r\n",
        b"POST /1/send/externaltrigger.json HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /1/send/externaltrigger.json HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /1/send/externaltrigger.json HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        exchange(url, request, leave=True)
    assert post(url).status_code == 200
    assert len(kept(client)) == 1
    assert "passcode" not in caplog.text


def test_a_full_intake_is_429_in_clear_words_and_takes_calls_again_when_there_is_room(
    start: Start, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    url = start(VOLLEY_MAX_INTAKE="2")
    assert [post(url, Idempotency_Key=f"k{i}").status_code for i in range(3)] == [200, 200, 429]
    refused = post(url, Idempotency_Key="k2")
    assert refused.json()["error"] == (
        "2 triggers wait in the intake, the most is 2 (VOLLEY_MAX_INTAKE): not taken, try again later"
    )
    assert refused.headers["Retry-After"] == "5"
    assert post(url, Idempotency_Key="k1").status_code == 200, "it is in the intake, and that is said again"
    assert len(kept(client)) == 2
    client.xtrim(STREAM, maxlen=0)
    assert post(url, Idempotency_Key="k2").status_code == 200
    assert [record.getMessage() for record in caplog.records].count(
        "account default: 2 triggers wait in the intake, the most is 2 (VOLLEY_MAX_INTAKE): calls are refused"
    ) == 1


def test_a_share_of_memory_that_is_reached_is_503(start: Start, client: RedisClient) -> None:
    url = start(VOLLEY_MAX_MEMORY_SHARE="0.5")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.5))
    try:
        refused = post(url)
    finally:
        client.config_set("maxmemory", 0)
    assert refused.status_code == 503
    assert "VOLLEY_MAX_MEMORY_SHARE" in refused.json()["error"]
    assert post(url).status_code == 200


def test_a_redis_that_refuses_for_now_is_503(start: Start, client: RedisClient) -> None:
    url = start()
    client.config_set("min-replicas-to-write", 1)
    try:
        refused = post(url, Idempotency_Key="k")
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert refused.status_code == 503
    assert post(url, Idempotency_Key="k").status_code == 200


def test_redis_away_is_503_and_calls_are_taken_when_it_is_back(
    start: Start, tmp_path: Path, server_binary: Path | None
) -> None:
    with EmbeddedServer(tmp_path, ends_with_parent=True, binary=server_binary) as own:
        url = start(VOLLEY_REDIS_URL=own.url)
        assert httpx.get(f"{url}/healthz", trust_env=False).json() == {"status": "ok"}
        own.kill()
        refused = post(url, Idempotency_Key="k")
        assert (refused.status_code, refused.json()["status"]) == (503, "fail")
        assert "not confirmed" in refused.json()["error"]
        gone = _until(
            lambda: httpx.get(f"{url}/healthz", trust_env=False), lambda answer: answer.status_code == 503
        )
        assert gone.json()["status"] == "unavailable"
        own.start()
        assert _until(
            lambda: post(url, Idempotency_Key="k"), lambda answer: answer.status_code == 200
        ).json() == (SUCCESS)
        _until(lambda: httpx.get(f"{url}/healthz", trust_env=False), lambda answer: answer.status_code == 200)


def test_calls_that_come_together_are_answered_each_for_itself(url: str, client: RedisClient) -> None:
    def call(number: int) -> tuple[int, int]:
        body: object = SINGLE | {"id": str(number)} if number % 3 else b"{"
        headers: dict[str, Any] = {} if number % 5 else {"X_CleverTap_Passcode": "wrong"}
        return number, post(url, body, **headers).status_code

    with ThreadPoolExecutor(16) as pool:
        answers = dict(pool.map(call, range(150)))
    wanted = {n: 401 if n % 5 == 0 else 400 if n % 3 == 0 else 200 for n in range(150)}
    assert answers == wanted
    assert sorted(int(each["id"]) for each in kept(client)) == [n for n in wanted if wanted[n] == 200]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=strategies.binary(max_size=200), key=strategies.text(max_size=20))
def test_any_bytes_get_an_answer_in_the_vendors_shape(url: str, body: bytes, key: str) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items()).encode()
    safe = key.encode("utf-8", "replace").replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
    answer = exchange(
        url,
        b"POST /1/send/externaltrigger.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        + head
        + b"Content-Type: application/json\r\nIdempotency-Key: "
        + safe
        + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body,
    )
    top, _, said = answer.partition(b"\r\n\r\n")
    assert int(top.split()[1]) in {200, 400, 409}
    if b"application/json" in top:
        assert json.loads(said)["status"] in {"fail", "success"}
    else:
        assert b" 400 " in top, "what was no HTTP is refused before it is a call"


def test_the_rights_that_the_docs_give_to_a_gateway_are_enough(
    start: Start, tmp_path: Path, server_binary: Path | None
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    (rules,) = re.findall(r"^user volley-gateway on >… (.+)$", page, re.MULTILINE)
    with (
        EmbeddedServer(tmp_path, ends_with_parent=True, binary=server_binary) as own,
        connect(own.url) as admin,
    ):
        admin.execute_command("ACL", "SETUSER", "gateway", "reset", "on", ">pass", *rules.split())
        url = start(VOLLEY_REDIS_URL=own.url.replace("redis://", "redis://gateway:pass@"))
        assert post(url, Idempotency_Key="k").status_code == 200
        assert post(url, Idempotency_Key="k").status_code == 200
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        assert admin.acl_log() == []
        assert kept(admin) == [SINGLE]


def test_a_gateway_without_accounts_is_a_mistake_of_the_settings(redis_url: str) -> None:
    from config.settings import SettingsError

    with pytest.raises(SettingsError, match="No account is configured"):
        load({"VOLLEY_REDIS_URL": redis_url})


def test_a_port_that_is_taken_is_told(environ: dict[str, str]) -> None:
    parsed: Settings = load(environ)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):  # noqa: SIM117
        with Gateway(parsed, Options(port=taken.getsockname()[1])):
            pass
