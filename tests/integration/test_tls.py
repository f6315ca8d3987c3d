"""A whole story over TLS, and what does not get through: no certificate, another's, another host's name.

The embedded server speaks no TLS, so a plain proxy of this test ends it; where the server under test (or one
that is installed here) speaks it itself, the story is told with that one as well.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from redis.exceptions import ConnectionError as RedisConnectionError

from config.celeryconfig import ACCEPT_QUEUE, celery_settings
from config.settings import load
from worker.core.model import Status
from worker.store import open_store
from worker.store.connection import connect

if TYPE_CHECKING:
    from tests.conftest import Eventually, Process, Processes
    from worker.clevertap.sandbox import Sandbox
    from worker.store.embedded import EmbeddedServer

INTAKE = "volley:{default}:intake"


@dataclass(frozen=True)
class Certificates:
    """Files: an authority, and what it has signed."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    #: Another authority, which signed none of these.
    stranger: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("authority", "stranger"):
        run(
            *("req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    for name, purpose in (("server", "serverAuth"), ("client", "clientAuth")):
        (folder / f"{name}.ext").write_text(f"subjectAltName=IP:127.0.0.1\nextendedKeyUsage={purpose}\n")
        run("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "authority.pem", "-CAkey", "authority.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )
    paths = ("authority.pem", "server.pem", "server.key", "client.pem", "client.key", "stranger.pem")
    return Certificates(*(folder / path for path in paths))


class TlsProxy:
    """Ends TLS before a server that speaks none. Threads, since a test has few connections."""

    def __init__(self, target: tuple[str, int], certificates: Certificates, *, ask_client: bool) -> None:
        self._target = target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificates.server, certificates.server_key)
        if ask_client:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(certificates.authority)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.bytes_seen = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError), ExitStack() as open_sockets:
            near = open_sockets.enter_context(self._context.wrap_socket(plain, server_side=True))
            far = open_sockets.enter_context(socket.create_connection(self._target))
            self._sockets += [near, far]
            back = threading.Thread(target=self._copy, args=(far, near), daemon=True)
            back.start()
            self._copy(near, far)
            back.join()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while data := source.recv(65_536):
                self.bytes_seen += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the listener and every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


StartTls = Callable[..., int]


@pytest.fixture
def start_tls(server: EmbeddedServer, redis_url: str, certificates: Certificates) -> Iterator[StartTls]:
    """`start_tls(ask_client=True)`: the port of a proxy before the clean server."""
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with ExitStack() as proxies:

        def start(*, ask_client: bool = False) -> int:
            proxy = TlsProxy(("127.0.0.1", port), certificates, ask_client=ask_client)
            proxies.enter_context(closing(proxy))
            return proxy.port

        yield start


@pytest.fixture
def native_tls(
    certificates: Certificates, processes: Processes, eventually: Eventually, tmp_path: Path
) -> int:
    """The port of a server that speaks TLS itself and asks for the client's certificate."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        started = processes.start(
            *(found, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", ""),
            *("--tls-cert-file", str(certificates.server), "--tls-key-file", str(certificates.server_key)),
            *("--tls-ca-cert-file", str(certificates.authority), "--dir", str(tmp_path)),
        )
        eventually(partial(begun_or_ended, started))
        if started.is_running:
            return port
    pytest.skip("no server that is installed here speaks TLS; the proxy's tests stand for it")


def begun_or_ended(server: Process) -> bool:
    return not server.is_running or "Ready to accept" in server.output


def tell_the_story(
    url: str, sandbox: Sandbox, processes: Processes, eventually: Eventually, tmp_path: Path
) -> None:
    """Append, accept, send, settle: by a worker and beat whose only way to Redis is this URL, from a file."""
    file = tmp_path / "redis_url"
    file.write_text(f"{url}\n")
    environ = {
        "VOLLEY_REDIS_URL_FILE": str(file),
        "VOLLEY_BASE_URL": sandbox.url,
        "VOLLEY_ACCOUNT_ID": "account",
        "VOLLEY_PASSCODE": "passcode-1",
    }
    for command in ("worker", "beat"):
        processes.python("-m", "celery", "-A", "worker.app", command, environ=environ)
    store = open_store(load(environ), "default")
    with closing(store), connect(url) as producer:
        body = {"to": {"identity": ["a"]}, "campaign_id": 65, "ExternalTrigger": {"Name": "A"}}
        producer.xadd(INTAKE, {"trigger": json.dumps(body)})
        eventually(lambda: store.status().total(Status.ACCEPTED) == 1, 60)
        eventually(lambda: store.status().swept_ms, 60)
    assert [pair.recipient for pair in sandbox.ledger.pairs()] == ["a"]


def test_a_story_over_tls_with_certificates_on_both_sides(
    *,
    start_tls: StartTls,
    certificates: Certificates,
    sandbox: Sandbox,
    processes: Processes,
    eventually: Eventually,
    tmp_path: Path,
) -> None:
    url = (
        f"rediss://127.0.0.1:{start_tls(ask_client=True)}/0?ssl_ca_certs={certificates.authority}"
        f"&ssl_certfile={certificates.client}&ssl_keyfile={certificates.client_key}"
    )
    tell_the_story(url, sandbox, processes, eventually, tmp_path)


def test_a_client_without_a_certificate_is_served_where_none_is_asked_for(
    start_tls: StartTls, certificates: Certificates
) -> None:
    with connect(f"rediss://127.0.0.1:{start_tls()}/0?ssl_ca_certs={certificates.authority}") as client:
        assert client.ping()


def test_a_server_that_speaks_tls_itself_serves_volley_and_celery(
    native_tls: int, certificates: Certificates
) -> None:
    url = (
        f"rediss://127.0.0.1:{native_tls}/0?ssl_ca_certs={certificates.authority}"
        f"&ssl_certfile={certificates.client}&ssl_keyfile={certificates.client_key}"
    )
    settings = load({"VOLLEY_REDIS_URL": url}, require_account=False)
    with closing(open_store(settings, "default")) as store:
        assert store.intake.append([b"{}"], "nonce")
    with Celery("over TLS", set_as_current=False) as app:
        app.conf.update(celery_settings(settings))
        app.send_task("triggers.accept", args=["default"], retry=False)
    with connect(url) as client:
        assert client.llen(ACCEPT_QUEUE) == 1


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("127.0.0.1", "ssl_ca_certs={stranger}"),
        ("127.0.0.1", ""),
        ("localhost", "ssl_ca_certs={authority}"),
    ],
    ids=["another authority", "the system's authorities", "another host's name"],
)
def test_a_server_that_cannot_prove_itself_is_not_spoken_to(
    start_tls: StartTls, certificates: Certificates, host: str, query: str
) -> None:
    files = query.format(stranger=certificates.stranger, authority=certificates.authority)
    url = f"rediss://:secret-password@{host}:{start_tls()}/0?{files}"
    with connect(url) as client, pytest.raises(RedisConnectionError, match=r"(?i)certificate") as refused:
        client.ping()
    assert "secret-password" not in str(refused.value)


def test_a_client_without_a_certificate_is_turned_away_where_one_is_asked_for(
    start_tls: StartTls, certificates: Certificates
) -> None:
    url = f"rediss://127.0.0.1:{start_tls(ask_client=True)}/0?ssl_ca_certs={certificates.authority}"
    with connect(url) as client, pytest.raises(RedisConnectionError):
        client.ping()


def test_without_the_check_anybody_is_believed(start_tls: StartTls, certificates: Certificates) -> None:
    with connect(f"rediss://127.0.0.1:{start_tls()}/0?ssl_cert_reqs=none") as client:
        assert client.ping()
