"""Every value that is wrong and every pair of values that contradict each other, with the exact sentence."""

import pytest

from config.settings import Settings, SettingsError, load

ACCOUNT = {"VOLLEY_ACCOUNT_ID": "ABC-123", "VOLLEY_PASSCODE": "invented-passcode"}


def refusal(environ: dict[str, str], **options: bool) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ, **options)
    # Neither may carry pydantic's error along, which knows the values.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


LEASE = (
    "VOLLEY_PERMIT_LEASE is {} s but must exceed VOLLEY_REQUEST_DEADLINE ({} s) by at least 5 s, or a slow "
    "call would outlive its permit: raise the lease or lower the deadline."
)
BASE_URL = (
    "VOLLEY_BASE_URL must be an http or https URL with a host, without user, password, query or fragment."
)
REDIS_URL = (
    "must be a URL that begins with redis://, rediss://, unix:// or sentinel://, "
    "with a number as its database."
)
HEADER = "must be 1 to 1024 printable ASCII characters without spaces: an HTTP header carries it."


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"VOLLEY_PERMIT_LEASE": "20"}, LEASE.format(20, 30)),
        ({"VOLLEY_PERMIT_LEASE": "34.9"}, LEASE.format(34.9, 30)),
        ({"VOLLEY_REQUEST_DEADLINE": "60"}, LEASE.format(45, 60)),
        (
            {"VOLLEY_CONNECT_TIMEOUT": "31"},
            "VOLLEY_CONNECT_TIMEOUT is 31 s but must not exceed VOLLEY_REQUEST_DEADLINE (30 s), "
            "or a call could outlast its deadline.",
        ),
        (
            {"VOLLEY_READ_TIMEOUT": "30.5"},
            "VOLLEY_READ_TIMEOUT is 30.5 s but must not exceed VOLLEY_REQUEST_DEADLINE (30 s), "
            "or a call could outlast its deadline.",
        ),
        (
            {"VOLLEY_MAX_IN_FLIGHT": "4"},
            "VOLLEY_MAX_IN_FLIGHT is 4 but CleverTap allows 3 requests in flight per account: lower it, or "
            "set VOLLEY_ALLOW_MORE_IN_FLIGHT to true if CleverTap has raised the account's limit.",
        ),
        (
            {"VOLLEY_ENDPOINT": "2"},
            "VOLLEY_ENDPOINT is 2 but VOLLEY_TOKEN is not set: the multiple-campaign API (/2) needs a token.",
        ),
        (
            {"VOLLEY_PASSCODE": ""},
            "VOLLEY_ACCOUNT_ID is set but VOLLEY_PASSCODE is not: an account needs both.",
        ),
        (
            {"VOLLEY_ACCOUNT_ID": ""},
            "VOLLEY_PASSCODE is set but VOLLEY_ACCOUNT_ID is not: an account needs its id and its passcode.",
        ),
        (
            {"VOLLEY_ACCOUNT_ID": "", "VOLLEY_PASSCODE": "", "VOLLEY_TOKEN": "t"},
            "VOLLEY_TOKEN is set but VOLLEY_ACCOUNT_ID is not: an account needs its id and its passcode.",
        ),
        (
            {"VOLLEY_ACCOUNT_ID": "", "VOLLEY_PASSCODE": ""},
            "No account is configured: set VOLLEY_ACCOUNT_ID and VOLLEY_PASSCODE, "
            "or name a TOML file with accounts in VOLLEY_CONFIG.",
        ),
        ({"VOLLEY_PASSCODE": "two words"}, f"VOLLEY_PASSCODE {HEADER}"),
        ({"VOLLEY_ACCOUNT_ID": "a\r\nX: y"}, f"VOLLEY_ACCOUNT_ID {HEADER}"),
        ({"VOLLEY_TOKEN": "tökén"}, f"VOLLEY_TOKEN {HEADER}"),
        ({"VOLLEY_BASE_URL": "ftp://127.0.0.1"}, BASE_URL),
        ({"VOLLEY_BASE_URL": "127.0.0.1:8080"}, BASE_URL),
        ({"VOLLEY_BASE_URL": "https://user:hidden@example.com"}, BASE_URL),
        ({"VOLLEY_BASE_URL": "https://example.com/?key=hidden"}, BASE_URL),
        ({"VOLLEY_BASE_URL": "https://[::1"}, BASE_URL),
        ({"VOLLEY_BASE_URL": "https://example.com:99999"}, BASE_URL),
        (
            {"VOLLEY_BASE_URL": "http://sandbox:8080"},
            "VOLLEY_BASE_URL is http for a host other than this machine, which would send the passcode in "
            "the clear: use https, or set VOLLEY_ALLOW_HTTP to true for a trusted network.",
        ),
        (
            {"VOLLEY_PASCODE": "x"},
            "VOLLEY_PASCODE is not a setting of Volley (did you mean VOLLEY_PASSCODE?).",
        ),
        ({"VOLLEY_QQQQQQQQ": "x"}, "VOLLEY_QQQQQQQQ is not a setting of Volley."),
        (
            {"VOLLEY_MAX_IN_FLIGHT": "three"},
            "VOLLEY_MAX_IN_FLIGHT is 'three' but must be a whole number from 1 to 100.",
        ),
        (
            {"VOLLEY_MAX_IN_FLIGHT": "0"},
            "VOLLEY_MAX_IN_FLIGHT is '0' but must be a whole number from 1 to 100.",
        ),
        ({"VOLLEY_CHUNK": "1001"}, "VOLLEY_CHUNK is '1001' but must be a whole number from 1 to 1000."),
        (
            {"VOLLEY_REQUEST_DEADLINE": "nan"},
            "VOLLEY_REQUEST_DEADLINE is 'nan' but must be a number of seconds above 0 and up to 3600.",
        ),
        (
            {"VOLLEY_REQUEST_DEADLINE": "0"},
            "VOLLEY_REQUEST_DEADLINE is '0' but must be a number of seconds above 0 and up to 3600.",
        ),
        (
            {"VOLLEY_ALLOW_HTTP": "maybe"},
            "VOLLEY_ALLOW_HTTP is 'maybe' but must be true or false.",
        ),
        ({"VOLLEY_POOL": "gevent"}, "VOLLEY_POOL is 'gevent' but must be one of threads, prefork or solo."),
        ({"VOLLEY_UNKNOWN": "drop"}, "VOLLEY_UNKNOWN is 'drop' but must be one of hold or resend."),
        ({"VOLLEY_ENVIRONMENT": "a b"}, "VOLLEY_ENVIRONMENT must be 1 to 64 letters, digits or _.-."),
        (
            {"VOLLEY_MAX_AGE": "1\n" + "9" * 100},
            "VOLLEY_MAX_AGE is '1\\n999999999999999999999999999999999999… "
            "but must be a whole number of seconds from 1 to 31536000.",
        ),
        (
            {"VOLLEY_BACKOFF_BASE": "301"},
            "VOLLEY_BACKOFF_BASE is 301 s but must not exceed VOLLEY_BACKOFF_CAP (300 s).",
        ),
        (
            {"VOLLEY_POOL": "solo", "VOLLEY_CONCURRENCY": "2"},
            "VOLLEY_CONCURRENCY is 2 but VOLLEY_POOL is solo, which runs one task at a time.",
        ),
        ({"VOLLEY_REDIS_URL": "http://:hidden@localhost"}, f"VOLLEY_REDIS_URL {REDIS_URL}"),
        ({"VOLLEY_REDIS_URL": "redis://:hidden@localhost/main"}, f"VOLLEY_REDIS_URL {REDIS_URL}"),
        ({"VOLLEY_REDIS_URL": "redis://localhost:port"}, f"VOLLEY_REDIS_URL {REDIS_URL}"),
        ({"VOLLEY_BROKER_URL": "amqp://guest:hidden@localhost"}, f"VOLLEY_BROKER_URL {REDIS_URL}"),
        (
            {"VOLLEY_REDIS_URL": "sentinel://h1;redis://h2"},
            "VOLLEY_REDIS_URL mixes sentinel:// with other URLs: all of them must be sentinels.",
        ),
        (
            {"VOLLEY_REDIS_URL": "sentinel://h1;sentinel://h2"},
            "VOLLEY_SENTINEL_MASTER is not set, but a sentinel:// URL needs the name of its master.",
        ),
        (
            {"VOLLEY_SENTINEL_MASTER": "main", "VOLLEY_REDIS_URL": "redis://h1"},
            "VOLLEY_SENTINEL_MASTER is set, but no URL begins with sentinel://.",
        ),
        (
            {"VOLLEY_PASSCODE_FILE": "/some/file"},
            "VOLLEY_PASSCODE and VOLLEY_PASSCODE_FILE are both set: keep one of them.",
        ),
        (
            {"VOLLEY_TOKEN_FILE": "/does/not/exist"},
            "VOLLEY_TOKEN_FILE names a file that cannot be read: No such file or directory.",
        ),
        (
            {"VOLLEY_CONFIG": "/does/not/exist.toml"},
            "VOLLEY_CONFIG names /does/not/exist.toml, which cannot be read: No such file or directory.",
        ),
    ],
)
def test_what_is_wrong_or_contradicts_itself_is_refused_in_one_sentence(
    environ: dict[str, str], sentence: str
) -> None:
    assert refusal(ACCOUNT | environ) == sentence


@pytest.mark.parametrize(
    "environ",
    [
        {"VOLLEY_PERMIT_LEASE": "35"},
        {"VOLLEY_CONNECT_TIMEOUT": "30", "VOLLEY_READ_TIMEOUT": "30"},
        {"VOLLEY_MAX_IN_FLIGHT": "4", "VOLLEY_ALLOW_MORE_IN_FLIGHT": "true"},
        {"VOLLEY_BASE_URL": "http://sandbox:8080", "VOLLEY_ALLOW_HTTP": "yes"},
        {"VOLLEY_ENDPOINT": "2", "VOLLEY_TOKEN": "t"},
        {"VOLLEY_BACKOFF_BASE": "300"},
        {"VOLLEY_POOL": "solo", "VOLLEY_CONCURRENCY": "1"},
    ],
)
def test_the_edge_of_every_contradiction_is_allowed(environ: dict[str, str]) -> None:
    assert isinstance(load(ACCOUNT | environ), Settings)
