"""Whatever the environment and the file hold, `load` gives settings or one sentence, and nothing else."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config.settings import Settings, SettingsError, describe, load

#: How fast the machine is must not decide.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = [name for name, _, _, _ in describe() if not name.endswith("_FILE") and name != "VOLLEY_CONFIG"]
PLAUSIBLE = ["", "0", "1", "2", "3", "30", "1e9", "-1", "nan", "true", "hold", "auto", "solo", "in1", "A-1"]
URLS = [
    "redis://h",
    "rediss://:p@h:1/0",
    "sentinel://a;sentinel://b",
    "http://127.0.0.1:1",
    "https://[",
    "a://",
]

values = st.one_of(st.sampled_from(PLAUSIBLE + URLS), st.text(max_size=60), st.floats().map(str))
environments = st.dictionaries(st.sampled_from(NAMES), values, max_size=12)

scalars = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "[]", "{}", '""', '"in1"', '"hold"', '"shop"', "2020-01-01", "inf", "'a b'"]),
    st.text(max_size=20),
)
keys = st.sampled_from(
    ["account_id", "passcode", "passcode_env", "token", "region", "base_url", "junk", "a.b"]
)
numeric_keys = st.sampled_from(
    ["max_in_flight", "request_deadline", "permit_lease", "max_attempts", "max_age"]
)
policy_keys = st.sampled_from(["account", "unknown"])
headers = st.sampled_from(
    ["[accounts.shop]", "[accounts.default]", "[campaigns.17]", "[campaigns.0]", "[[sends]]"]
)
lines = st.one_of(
    headers, st.tuples(keys | numeric_keys | policy_keys, scalars).map(" = ".join), st.text(max_size=30)
)
documents = st.one_of(st.lists(lines, max_size=12).map("\n".join).map(str.encode), st.binary(max_size=200))


def told(environ: dict[str, str]) -> str:
    """The sentence for a refusal, or the settings as they show themselves."""
    try:
        loaded = load(environ, require_account=False)
    except SettingsError as error:
        text = str(error)
        assert text.endswith(".")
        assert "\n" not in text
        return text
    assert isinstance(loaded, Settings)
    return repr(loaded)


@unhurried
@given(environments)
@example({"VOLLEY_PERMIT_LEASE": "1e308", "VOLLEY_REQUEST_DEADLINE": "1e308"})
@example({"VOLLEY_ACCOUNT_ID": "A", "VOLLEY_PASSCODE": "p", "VOLLEY_BASE_URL": "https://a:٣"})
def test_any_environment_gives_settings_or_one_sentence(environ: dict[str, str]) -> None:
    told(environ)


@unhurried
@given(st.dictionaries(st.text(max_size=20).map("VOLLEY_".__add__), st.text(max_size=20), max_size=4))
def test_any_names_give_settings_or_one_sentence(environ: dict[str, str]) -> None:
    # Paths are left out: the test must not read whatever they happen to name.
    told({name: value for name, value in environ.items() if not name.upper().endswith(("_FILE", "_CONFIG"))})


@unhurried
@given(documents, environments)
@example(b"x = " + b"[" * 100_000, {})
@example(b"x = " + b"9" * 10_000, {})
@example(b"x = 0001-01-01T00:00:00+23:59", {})
@example(b"\xef\xbb\xbf[accounts]", {})
def test_any_file_gives_settings_or_one_sentence(document: bytes, environ: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volley.toml"
        path.write_bytes(document)
        told(environ | {"VOLLEY_CONFIG": str(path)})


@unhurried
@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=8, max_size=40), environments)
def test_no_sentence_and_no_repr_holds_a_secret(secret: str, environ: dict[str, str]) -> None:
    # A marker that no sentence holds by chance.
    marked = f"Zq7{secret}7qZ"
    for name in ("VOLLEY_PASSCODE", "VOLLEY_TOKEN", "VOLLEY_REDIS_URL", "VOLLEY_SENTRY_DSN"):
        assert "Zq7" not in told({"VOLLEY_ACCOUNT_ID": "A"} | environ | {name: marked})
