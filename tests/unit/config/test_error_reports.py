"""What leaves for Sentry holds no credential, no recipient and no value."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from celery import Celery
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from config.observability import start_sentry
from config.settings import SettingsError, load

PASSCODE, TOKEN, ADDRESS, IDENTITY = (
    "invented-passcode",
    "invented-token",
    "ann@mail.example.com",
    "identity-17",
)
REDIS_PASSWORD = "redis-password"
PLANTED = f"{PASSCODE} {TOKEN} {ADDRESS} {REDIS_PASSWORD}"
ENVIRON = {
    "VOLLEY_ACCOUNT_ID": "ABC-123",
    "VOLLEY_PASSCODE": PASSCODE,
    "VOLLEY_TOKEN": TOKEN,
    "VOLLEY_REDIS_URL": f"redis://:{REDIS_PASSWORD}@localhost/0",
    "VOLLEY_SENTRY_DSN": "http://publickey@127.0.0.1:9/1",
}


class Collected(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events += [item.payload.json for item in envelope.items if item.payload.json]

    def text(self) -> str:
        return json.dumps(self.events)


@pytest.fixture
def sent() -> Iterator[Collected]:
    collected = Collected()
    with sentry_sdk.isolation_scope():
        assert start_sentry(load(ENVIRON), collected)
        yield collected
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


def fail(recipient: str) -> None:
    local = f"{recipient} {PLANTED}"  # noqa: F841  # a local variable of the frame is what is tested
    raise ValueError(f"refused {PLANTED}")


def assert_nothing_planted(sent: Collected) -> None:
    for planted in (PASSCODE, TOKEN, ADDRESS, REDIS_PASSWORD, IDENTITY, "publickey"):
        assert planted not in sent.text(), planted


def test_nothing_is_sent_without_a_dsn() -> None:
    without = {key: value for key, value in ENVIRON.items() if key != "VOLLEY_SENTRY_DSN"}
    assert start_sentry(load(without)) is False
    assert not sentry_sdk.get_client().is_active()


def test_a_dsn_that_is_none_is_refused_without_being_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        start_sentry(load(ENVIRON | {"VOLLEY_SENTRY_DSN": "hidden-dsn"}))
    assert str(caught.value) == "VOLLEY_SENTRY_DSN is not a DSN of Sentry."
    assert caught.value.__context__ is None


def test_an_exceptions_type_and_stack_are_sent_but_no_value(sent: Collected) -> None:
    try:
        fail(IDENTITY)
    except ValueError as error:
        sentry_sdk.capture_exception(error)
    (event,) = sent.events
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "ValueError"
    assert exception["value"].startswith("refused [masked]")
    assert exception["stacktrace"]["frames"][-1]["function"] == "fail"
    assert not any("vars" in frame or "context_line" in frame for frame in exception["stacktrace"]["frames"])
    assert_nothing_planted(sent)


def test_chained_exceptions_are_masked_too(sent: Collected) -> None:
    try:
        try:
            fail(IDENTITY)
        except ValueError as error:
            raise KeyError(PLANTED) from error
    except KeyError as error:
        error.add_note(PLANTED)
        sentry_sdk.capture_exception(error)
    assert [one["type"] for one in sent.events[0]["exception"]["values"]] == ["ValueError", "KeyError"]
    assert_nothing_planted(sent)


def test_log_arguments_extra_tags_contexts_and_breadcrumbs_are_masked_or_dropped(sent: Collected) -> None:
    scope = sentry_sdk.get_isolation_scope()
    scope.set_tag("tag", PLANTED)
    scope.set_extra("extra", {"to": [IDENTITY], "more": PLANTED})
    scope.set_context("batch", {"passcode": PASSCODE, PLANTED: PLANTED})
    scope.set_user({"id": IDENTITY, "email": ADDRESS})
    scope.add_breadcrumb(category="ours", message=f"crumb {PLANTED}", data={"to": [IDENTITY]})
    scope.add_breadcrumb(category="httplib", message="http", data={"url": f"https://h/{IDENTITY}"})
    logging.getLogger("worker").warning("before %s", PLANTED, extra={"recipient": IDENTITY})
    logging.getLogger("worker").error("failed for %s after %d", ADDRESS, 3, extra={"recipient": IDENTITY})
    (event,) = sent.events
    crumbs = [crumb["message"] for crumb in event["breadcrumbs"]["values"]]
    assert any(message.startswith("crumb [masked]") for message in crumbs)
    assert "http" not in crumbs
    assert event["logentry"]["message"] == "failed for %s after %d"
    assert "params" not in event["logentry"]
    assert "extra" not in event
    assert_nothing_planted(sent)


def test_a_failing_task_is_reported_without_its_arguments(sent: Collected) -> None:
    app = Celery("test", broker="memory://", set_as_current=False)

    @app.task(name="deliveries.broken")
    def broken(trigger: dict[str, list[str]], *, passcode: str) -> None:
        fail(trigger["identity"][0] + passcode)

    result = broken.apply(args=({"identity": [IDENTITY], "email": [ADDRESS]},), kwargs={"passcode": PASSCODE})
    assert result.failed()
    (event,) = sent.events
    assert event["transaction"] == "deliveries.broken"
    assert event["exception"]["values"][-1]["mechanism"]["type"] == "celery"
    assert_nothing_planted(sent)


def test_an_event_that_cannot_be_cleaned_is_not_sent(
    sent: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: object, _value: object) -> object:
        raise RuntimeError(PLANTED)

    monkeypatch.setattr("config.masking.Masker.tree", broken)
    sentry_sdk.capture_message(PLANTED)
    assert sent.events == []
