"""What the environment may say and what becomes of it; what it may not say is in test_contradictions."""

import dataclasses
from pathlib import Path

import pytest

from config.settings import (
    Endpoint,
    LogLevel,
    Pool,
    RedisSentinels,
    RedisServer,
    SettingsError,
    Unknown,
    describe,
    load,
)

ACCOUNT = {"VOLLEY_ACCOUNT_ID": "ABC-123", "VOLLEY_PASSCODE": "invented-passcode"}
TOKEN = {"VOLLEY_TOKEN": "invented-token"}


def refusal(environ: dict[str, str], **options: bool) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ, **options)
    # Neither may carry pydantic's error along, which knows the values.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def test_an_account_alone_gets_the_documented_defaults() -> None:
    settings = load(ACCOUNT)
    account = settings.account()
    assert settings.embedded
    assert account == settings.account("default")
    assert account.base_url == "https://api.clevertap.com"
    assert account.endpoint is Endpoint.SINGLE
    assert (account.max_in_flight, account.single_recipients) == (3, 1)
    assert account.request_deadline_seconds == account.read_timeout_seconds == 30
    assert (account.connect_timeout_seconds, account.permit_lease_seconds) == (5, 45)
    assert settings.chunk_deliveries == 1000
    assert settings.max_trigger_bytes == 4 * 1024 * 1024
    assert settings.retention_seconds == 7 * 86_400
    assert (settings.dedupe_window_seconds, settings.dedupe_key_window_seconds) == (3600, 86_400)
    assert (settings.backoff_base_seconds, settings.backoff_cap_seconds) == (1, 300)
    policy = settings.campaign("default", 1709550110)
    assert (policy.unknown, policy.max_attempts, policy.max_age_seconds) == (Unknown.HOLD, 8, 86_400)


def test_settings_and_accounts_are_frozen() -> None:
    settings = load(ACCOUNT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.pool = Pool.SOLO  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.account().max_in_flight = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.accounts["x"] = settings.account()  # type: ignore[index]


def test_a_token_opens_the_multiple_campaign_api_unless_the_endpoint_says_otherwise() -> None:
    assert load(ACCOUNT | TOKEN).account().endpoint is Endpoint.MULTIPLE
    assert load(ACCOUNT | TOKEN | {"VOLLEY_ENDPOINT": "1"}).account().endpoint is Endpoint.SINGLE


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("in1", "in1.api.clevertap.com"),
        ("sg1", "sg1.api.clevertap.com"),
        ("us1", "us1.api.clevertap.com"),
        ("aps3", "aps3.api.clevertap.com"),
        ("mec1", "mec1.api.clevertap.com"),
        ("eu1", "eu1.api.clevertap.com"),
        ("EU", "api.clevertap.com"),
    ],
)
def test_a_region_is_a_host(region: str, host: str) -> None:
    assert load(ACCOUNT | {"VOLLEY_REGION": region}).account().base_url == f"https://{host}"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://[::1]:8080/", "http://localhost", "https://proxy.example/ct"]
)
def test_a_base_url_takes_the_place_of_the_regions_host(url: str) -> None:
    environ = ACCOUNT | {"VOLLEY_BASE_URL": url, "VOLLEY_REGION": "in1"}
    assert load(environ).account().base_url == url.rstrip("/")


def test_a_short_deadline_shortens_the_time_for_connecting() -> None:
    account = load(ACCOUNT | {"VOLLEY_REQUEST_DEADLINE": "2.5"}).account()
    assert account.connect_timeout_seconds == account.read_timeout_seconds == 2.5


@pytest.mark.parametrize(
    ("environ", "tasks"),
    [
        ({}, 6),
        ({"VOLLEY_MAX_IN_FLIGHT": "1"}, 4),
        ({"VOLLEY_ACCEPT_TASKS": "3"}, 8),
        ({"VOLLEY_CONCURRENCY": "9"}, 9),
        ({"VOLLEY_POOL": "solo"}, 1),
    ],
)
def test_concurrency_covers_every_permit_and_the_waiting_tasks(environ: dict[str, str], tasks: int) -> None:
    assert load(ACCOUNT | environ).concurrency == tasks


def test_an_empty_variable_is_an_unset_one() -> None:
    assert load(ACCOUNT | {"VOLLEY_TOKEN": "", "VOLLEY_MAX_IN_FLIGHT": " "}).account().token is None


def test_choices_may_be_written_in_any_case() -> None:
    assert load(ACCOUNT | {"VOLLEY_LOG_LEVEL": "DEBUG"}).log_level is LogLevel.DEBUG


def test_no_account_is_enough_where_none_is_called() -> None:
    assert load({}, require_account=False).accounts == {}
    assert load({}, require_account=False).concurrency == 2


def test_variables_of_a_kubernetes_service_named_volley_are_not_ours() -> None:
    injected = {
        "VOLLEY_SERVICE_HOST": "10.0.0.1",
        "VOLLEY_PORT": "tcp://10.0.0.1:80",
        "VOLLEY_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load(ACCOUNT | injected) == load(ACCOUNT)


def test_an_unknown_account_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(SettingsError, match=r"^There is no account 'shop': there are default\.$"):
        load(ACCOUNT).account("shop")
    with pytest.raises(SettingsError, match=r"^There is no account 'default': none is configured\.$"):
        load({}, require_account=False).account()


@pytest.mark.parametrize("name", ["PASSCODE", "TOKEN", "REDIS_URL", "BROKER_URL", "SENTRY_DSN"])
def test_a_secret_is_read_from_a_file_without_the_line_break_at_its_end(name: str, tmp_path: Path) -> None:
    secret = "redis://:invented@localhost/1" if name.endswith("URL") else "from-a-file"
    file = tmp_path / "secret"
    file.write_text(f"{secret}\n")
    environ = {key: value for key, value in ACCOUNT.items() if key != f"VOLLEY_{name}"}
    settings = load(environ | {f"VOLLEY_{name}_FILE": str(file)})
    assert secret in settings.secrets()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "an empty file"),
        (b"\xff\xfe", "a file that is not UTF-8"),
        (b"x" * 20_000, "a file of more than 16384 bytes"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused(content: bytes, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    environ = {"VOLLEY_ACCOUNT_ID": "ABC", "VOLLEY_PASSCODE_FILE": str(file)}
    assert refusal(environ) == f"VOLLEY_PASSCODE_FILE names {fault}."


def test_secrets_are_in_no_repr_str_or_error(tmp_path: Path) -> None:
    environ = (
        ACCOUNT
        | TOKEN
        | {
            "VOLLEY_REDIS_URL": "redis://:hidden-one@localhost/0",
            "VOLLEY_BROKER_URL": "redis://:hidden-two@localhost/0",
            "VOLLEY_SENTRY_DSN": "https://hidden-three@example.com/1",
        }
    )
    settings = load(environ)
    told = [repr(settings), str(settings), repr(settings.account()), repr(settings.redis_address())]
    told.append(refusal(environ | {"VOLLEY_PERMIT_LEASE": "1"}))
    told.append(refusal(environ | {"VOLLEY_REDIS_URL": "redis//hidden-one"}))
    for secret in ("invented-passcode", "invented-token", "hidden-one", "hidden-two", "hidden-three"):
        assert not any(secret in text for text in told)
    assert settings.account().passcode.get_secret_value() == "invented-passcode"


def test_the_broker_is_the_redis_url_unless_another_is_given() -> None:
    settings = load(ACCOUNT | {"VOLLEY_REDIS_URL": "redis://h1"})
    assert settings.broker_url == settings.redis_url
    assert not settings.embedded


def test_an_embedded_server_becomes_the_redis_and_the_broker() -> None:
    settings = load(ACCOUNT).connected_to("redis://127.0.0.1:7000/0")
    assert not settings.embedded
    assert settings.broker_url == settings.redis_url
    assert isinstance(settings.redis_address(), RedisServer)


def test_without_a_redis_there_is_no_address() -> None:
    with pytest.raises(SettingsError, match=r"^VOLLEY_REDIS_URL is not set"):
        load(ACCOUNT).redis_address()


def test_sentinel_urls_give_the_sentinels_and_the_masters_credentials() -> None:
    url = "sentinel://:p%40ss@h1:26380/2;sentinel://h2"
    address = load(ACCOUNT | {"VOLLEY_REDIS_URL": url, "VOLLEY_SENTINEL_MASTER": "main"}).redis_address()
    assert isinstance(address, RedisSentinels)
    assert address.sentinels == (("h1", 26380), ("h2", 26379))
    assert (address.master, address.username, address.database) == ("main", None, 2)
    assert address.password is not None
    assert address.password.get_secret_value() == "p@ss"


def test_every_variable_is_described_with_its_type_and_default() -> None:
    rows = {name: (kind, default, description) for name, kind, default, description in describe()}
    assert rows["VOLLEY_MAX_IN_FLIGHT"][:2] == ("whole number", "3")
    assert rows["VOLLEY_PERMIT_LEASE"][:2] == ("seconds", "45")
    assert rows["VOLLEY_PASSCODE"][:2] == ("secret", "")
    assert rows["VOLLEY_ALLOW_HTTP"][:2] == ("true or false", "false")
    assert rows["VOLLEY_UNKNOWN"][:2] == ("hold | resend", "hold")
    assert rows["VOLLEY_CONCURRENCY"][1] == "computed"
    assert all(description.endswith(".") for _, _, description in rows.values())


def test_the_defaults_that_are_described_are_the_ones_that_hold() -> None:
    written = {
        name: default
        for name, kind, default, _ in describe()
        if default and default not in ("computed", "the deadline", "VOLLEY_UNKNOWN") and kind != "path"
    }
    assert load(ACCOUNT | written) == load(ACCOUNT)
