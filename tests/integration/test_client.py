"""The client against real sockets: each test scripts a server and looks at the value that comes back."""

from __future__ import annotations

import gc
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from worker.clevertap.client import (
    ANSWER_MAX_BYTES,
    NOT_SENT,
    PERHAPS_SENT,
    Client,
    Door,
    retry_after_seconds,
)
from worker.core.answers import Answer, Answered, NoAnswer, NotSent, Reply, Verdict

BODY = b'{"to":{"email":["secret@example.com"]}}'
PASSCODE, TOKEN = "pass-c0de", "t0ken"
SUCCESS = b'{"message": "Added to queue for processing", "status": "success"}'
#: Far more than any answer below takes, so that only a hang reaches it.
LONG_SECONDS = 30.0
#: What a hang is given before the deadline ends it.
SHORT_SECONDS = 0.4

#: A self-signed certificate for 127.0.0.1 with its key, good for nothing but these tests.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBoDCCAUagAwIBAgIUY/C8xS/RaWkyv+2YoqEojl3DCvswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyNDAwMjMxOFoYDzIxMjYxMDMx
MDAyMzE4WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATfsM/MhmgXkbWoZfXzT1LNSvJxXPFw+0QCV+5HUSXOO7v/QeYahJ81
uB4y/qIrCECpRe91EwOB3yW5Kf8KT3nbo3QwcjAdBgNVHQ4EFgQU5kLSLdQTSf2L
miSsGsK/FPRG7LUwHwYDVR0jBBgwFoAU5kLSLdQTSf2LmiSsGsK/FPRG7LUwDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMA4GA1UdDwEB/wQEAwIChDAK
BggqhkjOPQQDAgNIADBFAiBG5QjqRqRb3BIgKZG6Kb6tBro/Gty1CUC4hKrAPfNd
mQIhALRuac858A2Zpf5i2xZd0pq3MbHxJCfsHB2VDqW2ciC7
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6jleVQ6pKiCiroYV
8GQko1A6oJV6Z+G0Bxw4zGlEOoyhRANCAATfsM/MhmgXkbWoZfXzT1LNSvJxXPFw
+0QCV+5HUSXOO7v/QeYahJ81uB4y/qIrCECpRe91EwOB3yW5Kf8KT3nb
-----END PRIVATE KEY-----
"""

Script = Callable[[socket.socket], None]


def answer(status: int = 200, body: bytes = SUCCESS, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Server:
    """A listening socket; connection number n is handed to script number n (the last one for all later)."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.connections = 0
        self.requests: list[bytes] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        for number in itertools.count():
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed: the test is over
                return
            self.connections += 1
            self._open.append(connection)
            script = self._scripts[min(number, len(self._scripts) - 1)]
            thread = threading.Thread(target=self._run, args=(script, connection), daemon=True)
            self._threads.append(thread)
            thread.start()

    @staticmethod
    def _run(script: Script, connection: socket.socket) -> None:
        with connection:
            try:
                script(connection)
            except OSError:  # the client or the test's end closed it
                return

    def request(self, connection: socket.socket) -> bytes:
        """Read one whole request. Raises OSError when the client leaves."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._received(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        while len(body) < length:
            body += self._received(connection)
        self.requests.append(head + b"\r\n\r\n" + body)
        return body

    @staticmethod
    def _received(connection: socket.socket) -> bytes:
        data = connection.recv(65_536)
        if not data:
            raise ConnectionResetError
        return data

    def answers(self, *said: bytes) -> Script:
        """One request, one answer, as often as the client asks; the last answer again and again."""

        def script(connection: socket.socket) -> None:
            for number in itertools.count():
                self.request(connection)
                connection.sendall(said[min(number, len(said) - 1)])

        return script

    def use(self, *scripts: Script) -> None:
        self._scripts = scripts

    def stop(self) -> None:
        for one in (self._socket, *self._open):
            wake_and_close(one)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


def wake_and_close(one: socket.socket) -> None:
    """Close a socket so that a thread that waits on it wakes up."""
    with suppress(OSError):  # not connected any more
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(connections=3) as client:
        yield client


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    path.write_text(CERTIFICATE)
    return path


def post(client: Client, url: str, *, seconds: float = LONG_SECONDS, body: bytes = BODY) -> Answer:
    return client.post(Door(url, "ACC", PASSCODE, TOKEN), body, endpoint=2, deadline_seconds=seconds)


def test_a_request_is_the_vendors_and_the_answer_is_read(server: Server, client: Client) -> None:
    server.use(server.answers(answer()))
    got = post(client, server.url + "/")
    assert isinstance(got, Answered)
    assert (got.status, got.reply, got.retry_after_seconds) == (200, Reply(Verdict.SUCCESS), None)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert body == BODY
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /2/send/externaltrigger.json HTTP/1.1"
    headers = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines[1:])}
    assert headers[b"x-clevertap-account-id"] == b"ACC"
    assert headers[b"x-clevertap-passcode"] == PASSCODE.encode()
    assert headers[b"x-clevertap-token"] == TOKEN.encode()
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"accept-encoding"] == b"identity"


def test_a_call_for_one_campaign_carries_no_token(server: Server, client: Client) -> None:
    server.use(server.answers(answer()))
    client.post(Door(server.url, "ACC", PASSCODE, TOKEN), BODY, endpoint=1, deadline_seconds=LONG_SECONDS)
    assert server.requests[0].startswith(b"POST /1/send/externaltrigger.json ")
    assert TOKEN.encode() not in server.requests[0]


def test_a_connection_is_kept_for_the_next_request(server: Server, client: Client) -> None:
    server.use(server.answers(answer()))
    for _ in range(5):
        assert isinstance(post(client, server.url), Answered)
    assert (server.connections, len(server.requests)) == (1, 5)


def test_a_request_and_its_body_are_gone_with_its_answer(server: Server, client: Client) -> None:
    """Without waiting for Python to look for cycles: bodies are large, and it looks rarely."""
    server.use(server.answers(answer()))
    post(client, server.url)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            post(client, server.url)
        assert not [one for one in gc.get_objects() if isinstance(one, httpx.Request | httpx.Response)]
    finally:
        gc.enable()


def test_a_connection_that_the_server_closed_is_not_used_again(server: Server, client: Client) -> None:
    def once(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(answer())
        connection.close()
        closed.set()

    closed = threading.Event()
    server.use(once, server.answers(answer()))
    post(client, server.url)
    assert closed.wait(10)
    assert isinstance(post(client, server.url), Answered)
    assert (server.connections, len(server.requests)) == (2, 2)


def test_every_status_is_a_value_and_no_redirect_is_followed(server: Server, client: Client) -> None:
    said = [answer(status, b"{}", b"Location: /elsewhere") for status in (302, 400, 429, 500, 503)]
    server.use(server.answers(*said))
    got = [post(client, server.url) for _ in said]
    assert [one.status for one in got if isinstance(one, Answered)] == [302, 400, 429, 500, 503]
    assert len(server.requests) == len(said)


def test_no_cookie_is_kept(server: Server, client: Client) -> None:
    server.use(server.answers(answer(200, SUCCESS, b"Set-Cookie: account=one; Path=/")))
    post(client, server.url)
    post(client, server.url)
    assert b"cookie" not in server.requests[1].lower()


def test_nothing_is_taken_from_the_environment(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server.use(server.answers(answer()))
    with Client() as fresh:
        assert isinstance(post(fresh, server.url), Answered)


def test_a_large_answer_is_cut(server: Server, client: Client) -> None:
    server.use(
        server.answers(answer(200, b'{"status":"success","x":"' + b"x" * 10 * ANSWER_MAX_BYTES + b'"}'))
    )
    got = post(client, server.url)
    assert isinstance(got, Answered)
    assert got.reply == Reply(Verdict.UNREADABLE, f"not JSON ({ANSWER_MAX_BYTES} bytes)")


def test_the_time_of_an_attempt_is_measured_with_the_given_clock(server: Server) -> None:
    server.use(server.answers(answer()))
    ticks = itertools.count(start=1000.0, step=0.25)
    with Client(clock=lambda: next(ticks)) as client:
        got = post(client, server.url, seconds=1e6)
    assert isinstance(got, Answered)
    assert got.seconds > 0
    assert got.seconds % 0.25 == 0


# Surely not sent


def test_a_refused_connection_is_not_sent(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert_not_sent(post(client, f"http://127.0.0.1:{port}"), "ConnectError")


def test_a_name_that_cannot_exist_is_not_sent(client: Client) -> None:
    # A label of 64 characters is refused before anybody is asked for it.
    assert_not_sent(post(client, f"http://{'x' * 64}.invalid"), "ConnectError")


def test_a_server_that_speaks_no_tls_is_not_sent_to(server: Server, client: Client) -> None:
    server.use(lambda connection: connection.sendall(b"HTTP/1.1 400 X\r\n\r\n"))
    assert_not_sent(post(client, server.url.replace("http:", "https:")), "ConnectError")
    assert server.requests == []


def test_a_tls_handshake_that_never_ends_is_not_sent(server: Server, client: Client) -> None:
    server.use(hang)
    got = post(client, server.url.replace("http:", "https:"), seconds=SHORT_SECONDS)
    assert_not_sent(got, "ConnectTimeout")


def test_a_certificate_that_nobody_vouches_for_is_not_sent_to(
    server: Server, client: Client, certificate: Path
) -> None:
    server.use(tls(certificate, server.answers(answer())))
    assert_not_sent(post(client, server.url.replace("http:", "https:")), "ConnectError")
    assert server.requests == []


def test_a_request_goes_over_tls_to_a_server_that_is_vouched_for(server: Server, certificate: Path) -> None:
    server.use(tls(certificate, server.answers(answer())))
    with Client(tls=ssl.create_default_context(cafile=certificate)) as client:
        for _ in range(2):
            assert isinstance(post(client, server.url.replace("http:", "https:")), Answered)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_a_wait_for_a_free_connection_is_not_sent(server: Server) -> None:
    arrived = threading.Event()

    def hold(connection: socket.socket) -> None:
        server.request(connection)
        arrived.set()
        hang(connection)

    server.use(hold)
    with (
        Client(connections=1) as client,
        in_thread(lambda: post(client, server.url, seconds=5 * SHORT_SECONDS)),
    ):
        assert arrived.wait(10)
        assert_not_sent(post(client, server.url, seconds=SHORT_SECONDS), "PoolTimeout")


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1", "nonsense", "http://", "http://127.0.0.1:x", "http://\x00"]
)
def test_a_base_url_that_cannot_be_called_is_not_sent(client: Client, url: str) -> None:
    assert_not_sent(post(client, url))


@pytest.mark.parametrize("passcode", ["line\nfeed", "caf\u00e9\u20ac", "\x00"])
def test_a_secret_that_no_header_can_hold_is_not_sent_and_not_told(
    server: Server, client: Client, passcode: str
) -> None:
    server.use(server.answers(answer()))
    got = client.post(Door(server.url, "ACC", passcode), BODY, endpoint=1, deadline_seconds=LONG_SECONDS)
    assert_not_sent(got)
    assert passcode not in repr(got)
    assert server.requests == []


# Perhaps sent


def test_a_connection_cut_after_the_request_has_no_answer(server: Server, client: Client) -> None:
    server.use(lambda connection: void(server.request(connection)))
    assert_no_answer(post(client, server.url), "RemoteProtocolError")


def test_a_connection_reset_after_the_request_has_no_answer(server: Server, client: Client) -> None:
    def reset(connection: socket.socket) -> None:
        server.request(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    server.use(reset)
    assert_no_answer(post(client, server.url), "ReadError")


def test_an_answer_cut_in_its_body_is_no_answer(server: Server, client: Client) -> None:
    def cut(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(answer()[:-5])

    server.use(cut)
    assert_no_answer(post(client, server.url), "RemoteProtocolError")


def test_an_answer_that_is_not_http_is_no_answer(server: Server, client: Client) -> None:
    server.use(server.answers(b"garbage\r\n\r\n"))
    assert_no_answer(post(client, server.url), "RemoteProtocolError")


def test_a_server_that_never_answers_has_no_answer_at_the_deadline(server: Server, client: Client) -> None:
    def silent(connection: socket.socket) -> None:
        server.request(connection)
        hang(connection)

    server.use(silent)
    assert_no_answer(post(client, server.url, seconds=SHORT_SECONDS), "ReadTimeout")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 X\r\nX-Slow: ", b"HTTP/1.1 200 X\r\nContent-Length: 9999\r\n\r\n"]
)
def test_bytes_that_trickle_do_not_put_off_the_deadline(server: Server, client: Client, start: bytes) -> None:
    def trickle(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(start)
        # No byte is late enough for a timeout per read; together they never end.
        while not gone.wait(SHORT_SECONDS / 8):
            connection.sendall(b"x")

    gone = threading.Event()
    server.use(trickle)
    try:
        assert_no_answer(post(client, server.url, seconds=SHORT_SECONDS), "ReadTimeout")
    finally:
        gone.set()


def test_a_server_that_takes_the_request_slowly_does_not_put_off_the_deadline(
    server: Server, client: Client
) -> None:
    def sip(connection: socket.socket) -> None:
        # No write is slow enough for a timeout per write; all of them would take many times the deadline.
        while not gone.wait(SHORT_SECONDS / 40):
            connection.recv(65_536)

    gone = threading.Event()
    server.use(sip)
    try:
        got = post(client, server.url, seconds=SHORT_SECONDS, body=b"x" * 50_000_000)
        assert_no_answer(got, "WriteTimeout")
    finally:
        gone.set()


def test_a_connection_whose_request_was_given_up_is_not_used_again(server: Server, client: Client) -> None:
    def silent(connection: socket.socket) -> None:
        server.request(connection)
        hang(connection)

    server.use(silent, server.answers(answer()))
    assert_no_answer(post(client, server.url, seconds=SHORT_SECONDS), "ReadTimeout")
    assert isinstance(post(client, server.url), Answered)
    assert server.connections == 2


# Completeness


def test_every_exception_of_httpx_is_mapped_to_exactly_one_side() -> None:
    raised = [
        one
        for one in vars(httpx).values()
        if isinstance(one, type) and issubclass(one, Exception) and one.__module__.startswith("httpx")
    ]
    assert len(raised) > 20
    for one in raised:
        assert issubclass(one, NOT_SENT + PERHAPS_SENT), one
    surely = {one.__name__ for one in raised if issubclass(one, NOT_SENT)}
    assert surely == {
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "ProxyError",
        "UnsupportedProtocol",
        "LocalProtocolError",
        "InvalidURL",
    }


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", "", 7.0),
        (" 1.5 ", "", 1.5),
        ("-3", "", 0.0),
        ("", "", None),
        ("soon", "", None),
        ("inf", "", None),
        ("nan", "", None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:30 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_against_the_answers_own(
    value: str, date: str, seconds: float | None
) -> None:
    assert retry_after_seconds(httpx.Headers({"Retry-After": value, "Date": date})) == seconds


def test_an_answer_carries_its_retry_after(server: Server, client: Client) -> None:
    server.use(server.answers(answer(429, b"{}", b"Retry-After: 7")))
    got = post(client, server.url)
    assert isinstance(got, Answered)
    assert got.retry_after_seconds == 7.0


def test_a_door_does_not_show_its_secrets() -> None:
    shown = repr(Door("http://127.0.0.1", "ACC", PASSCODE, TOKEN))
    assert PASSCODE not in shown
    assert TOKEN not in shown


# The words of these tests


def hang(connection: socket.socket) -> None:
    """Until the other side leaves."""
    while connection.recv(65_536):
        pass


def tls(certificate: Path, script: Script) -> Script:
    """The script, over TLS. A client that does not like the certificate leaves, which is an OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def spoken(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            script(secured)

    return spoken


def void(_: object) -> None:
    """A script that ends, which closes its connection."""


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def assert_not_sent(got: Answer, kind: str = "") -> None:
    assert isinstance(got, NotSent), got
    assert_tells_nothing(got.why, kind)


def assert_no_answer(got: Answer, kind: str) -> None:
    assert isinstance(got, NoAnswer), got
    assert_tells_nothing(got.why, kind)


def assert_tells_nothing(why: str, kind: str) -> None:
    name, _, phrase = why.partition(": ")
    assert name == kind or not kind
    assert phrase in {
        "no connection was made",
        "no whole answer came",
        "the request could not be built",
    }
