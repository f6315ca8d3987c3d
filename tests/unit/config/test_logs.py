"""A record is one line, whatever is in it, and holds no secret."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config.logs import JsonLines, TextLines, configure_logging, one_line
from config.observability import MASK, mask
from config.settings import Settings, load

#: How fast the machine is must not decide.
unhurried = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LINES = (TextLines, JsonLines)
ENVIRON = {
    "VOLLEY_ACCOUNT_ID": "ABC-123",
    "VOLLEY_PASSCODE": "invented/passcode+1",
    "VOLLEY_TOKEN": "tok",
    "VOLLEY_REDIS_URL": "redis://:redis%40password@localhost/0",
}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def settings(log_format: str = "text", **environ: str) -> Settings:
    return load(ENVIRON | {"VOLLEY_LOG_FORMAT": log_format} | environ)


def configured(settings: Settings) -> io.StringIO:
    """Configures logging, and takes the test runner's handlers away, which cannot bear these records."""
    stream = io.StringIO()
    configure_logging(settings, stream)
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler.formatter, LINES)]
    return stream


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().split("\n")[:-1]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_value_cannot_forge_a_line(log_format: str) -> None:
    stream = configured(settings(log_format))
    hostile = "x\r\n2026-01-01T00:00:00.000Z INFO forged\x1b[2J\x85\u2028\u202e\ud800"
    logging.getLogger("worker").info("got %s", hostile, extra={"reason": hostile})
    (line,) = lines(stream)
    assert line.isprintable()
    assert "\\n" in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_and_addresses_are_in_no_line(log_format: str) -> None:
    stream = configured(settings(log_format))
    secrets = "invented/passcode+1 invented%2Fpasscode%2B1 tok redis@password"
    planted = f"{secrets} ann.b+c@mail.example.com +4915112345678"
    log = logging.getLogger("worker")
    log.info(
        "message %s",
        planted,
        extra={"reason": planted, "nested": {"to": [planted]}, "object": Exception(planted)},
    )
    try:
        int(planted)
    except ValueError:
        log.exception("failed", stack_info=True)
    text = stream.getvalue()
    assert len(lines(stream)) == 2
    assert "ValueError" in text
    for secret in (
        "passcode",
        "tok ",
        "redis@password",
        "redis%40password",
        "ann.b",
        "mail.example",
        "4915112345678",
    ):
        assert secret not in text


def test_json_lines_are_objects_with_the_extra_of_the_record() -> None:
    stream = configured(settings("json"))
    logging.getLogger("worker.engine").warning("attempt", extra={"status": "accepted", "recipients": 1000})
    fields = json.loads(stream.getvalue())
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "WARNING",
        "logger": "worker.engine",
        "message": "attempt",
        "status": "accepted",
        "recipients": 1000,
    }


def test_a_text_line_holds_the_extra_of_the_record() -> None:
    stream = configured(settings())
    logging.getLogger("worker.engine").info("attempt", extra={"status": "accepted", "recipients": 1000})
    assert lines(stream)[0].endswith("Z INFO worker.engine attempt status=accepted recipients=1000")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_message_that_cannot_be_formatted_costs_neither_the_line_nor_a_secret(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("tok")

    stream = configured(settings(log_format))
    logging.getLogger("worker").info("%d", "a@b.example", extra={"value": Broken()})
    assert "cannot be formatted" in lines(stream)[0]
    assert "a@b.example" not in stream.getvalue() + capsys.readouterr().err


def test_configuring_twice_writes_a_record_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(settings(), first)
    configure_logging(settings(), second)
    logging.getLogger("worker").info("once")
    assert (lines(first), len(lines(second))) == ([], 1)


def test_libraries_stay_quiet_about_every_hint_and_body() -> None:
    stream = configured(settings(VOLLEY_LOG_LEVEL="debug"))
    logging.getLogger("celery.worker.strategy").info("received")
    logging.getLogger("celery.pool").debug("args")
    logging.getLogger("worker").debug("ours")
    assert [line.split()[-1] for line in lines(stream)] == ["ours"]


def test_masking_knows_the_settings_secrets_in_every_form() -> None:
    known = settings()
    assert mask("passcode=invented/passcode+1;", known) == f"passcode={MASK};"
    assert mask("u=redis://:redis%40password@localhost/0", known) == f"u={MASK}"
    assert mask("p=redis@password", known) == f"p={MASK}"
    assert mask("the token tok, not tokens", known) == f"the token {MASK}, not tokens"
    assert mask("to ann@example.com, +4915112345678 and 17") == f"to {MASK}, {MASK} and 17"
    assert mask("email=ann%40example.com&x=1") == f"{MASK}&x=1"


@unhurried
@given(st.emails(domains=st.sampled_from(["example.com", "mail.example.org"])))
def test_any_address_is_masked(address: str) -> None:
    domain = address.rpartition("@")[2]
    assert domain not in mask(f"refused {address}: unknown")


@unhurried
@given(st.text())
def test_any_text_becomes_one_printable_or_spaced_line(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    line.encode()
