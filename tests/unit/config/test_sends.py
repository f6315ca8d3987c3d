"""Recurring sends in the TOML file: each mistake ends in one sentence that names the send and the key."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from config.celeryconfig import celery_settings
from config.sends import (
    FileSource,
    Kind,
    Missed,
    Priority,
    SendTable,
    SetSource,
    UrlSource,
    checked_send,
    read_sends,
)
from config.settings import Settings, SettingsError, load
from worker.clevertap import wire
from worker.core import model

#: How fast the machine is must not decide.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SEND = """
[[sends]]
name = "news"
cron = "0 9 * * *"
campaigns = [17]
content = { Name = "A" }
"""
FILE = SEND + 'file = "people.csv"\n'
FIELDS = "minute, hour, day of the month, month, day of the week."
ENVIRON = {"VOLLEY_ACCOUNT_ID": "A", "VOLLEY_PASSCODE": "passcode-1", "VOLLEY_REDIS_URL": "redis://h"}


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "volley.toml"


def loaded(toml: Path, text: str, **environ: str) -> Settings:
    toml.write_text(text)
    return load({**ENVIRON, "VOLLEY_CONFIG": str(toml), **environ})


def test_what_a_send_leaves_out_has_its_default(toml: Path) -> None:
    (send,) = loaded(toml, FILE).sends
    assert (send.name, send.account, send.time_zone, send.campaigns) == ("news", "default", "UTC", (17,))
    assert (send.priority, send.missed, send.missed_within_seconds) == (Priority.BULK, Missed.LATEST, 3600)
    assert send.expires_after_seconds is None
    # A file is seen from the TOML file's folder, wherever a worker runs.
    assert send.source == FileSource(path=toml.parent / "people.csv", kind=None)


def test_a_set_of_another_redis_and_a_url_with_a_header(toml: Path) -> None:
    text = (
        SEND
        + 'redis_set = "crm:news"\nredis_url_env = "CRM_REDIS"\nkind = "objectid"\n'
        + SEND.replace('"news"', '"more"')
        + 'url = "https://crm.example/people?key=url-secret"\nheader_env = "VOLLEY_CRM_TOKEN"\n'
        + 'missed = "ALL"\n'
    )
    environ = {"CRM_REDIS": "redis://:set-secret@h", "VOLLEY_CRM_TOKEN": "Bearer header-secret"}
    settings = loaded(toml, text, **environ)
    first, second = (send.source for send in settings.sends)
    assert isinstance(first, SetSource)
    assert (first.key, first.kind) == ("crm:news", Kind.OBJECT_ID)
    assert isinstance(second, UrlSource)
    assert (second.header, settings.sends[1].missed) == ("Authorization", Missed.ALL)
    assert {"redis://:set-secret@h", "Bearer header-secret"} < set(settings.secrets())
    for secret in ("set-secret", "header-secret", "url-secret", "passcode-1"):
        assert secret not in repr(settings)


def test_beat_looks_for_due_sends_only_where_there_are_any(toml: Path) -> None:
    settings = loaded(toml, FILE)
    assert celery_settings(settings)["beat_schedule"].keys() >= {"fire", "sweep"}  # type: ignore[attr-defined]
    assert "fire" not in celery_settings(load(ENVIRON))["beat_schedule"]  # type: ignore[operator]
    # They have room of their own in a worker.
    assert settings.concurrency == load(ENVIRON).concurrency + 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sends = 1", "sends in {file} must be tables such as [[sends]]."),
        ("[sends]", "sends in {file} must be tables such as [[sends]]."),
        ("[[sends]]", "name in [[sends]] number 1 of {file} is not set: a recurring send needs it."),
        (FILE + 'corn = "x"', "'corn' in {send} is not a setting (did you mean cron?)."),
        (
            FILE.replace('"news"', '"a b"'),
            "name in [[sends]] number 1 of {file} must be 1 to 40 of a-z, 0-9, _ and -.",
        ),
        (FILE + FILE, "Two [[sends]] in {file} are named news: each needs its own name."),
        (FILE + 'account = "shop"', "account in {send} is 'shop' but the accounts that exist are default."),
        (
            FILE.replace("0 9 * * *", "0 9 * *"),
            "cron in {send} is '0 9 * *' but must be five fields: " + FIELDS,
        ),
        (
            FILE.replace("0 9 * * *", "0 25 * * *"),
            "cron in {send} is '0 25 * * *' but its hour cannot be understood: " + FIELDS,
        ),
        (
            FILE.replace("0 9 * * *", "0 0 31 2,4 L"),
            "cron in {send} is '0 0 31 2,4 L' but its day-of-week cannot be understood: " + FIELDS,
        ),
        (
            FILE.replace('"0 9 * * *"', "5"),
            "cron in {send} must be a cron expression such as '0 9 * * MON'.",
        ),
        (
            FILE + 'time_zone = "Europe/Berln"',
            "time_zone in {send} is 'Europe/Berln', which is no time zone (did you mean Europe/Berlin?).",
        ),
        (FILE + 'time_zone = "../etc"', "time_zone in {send} is '../etc', which is no time zone."),
        (FILE.replace("[17]", "[]"), "campaigns in {send} must be a list of 1 to 100 campaign ids."),
        (FILE.replace("[17]", '["17"]'), "campaigns in {send} must be a list of 1 to 100 campaign ids."),
        (
            FILE.replace('{ Name = "A" }', "{ n = 1 }"),
            "content in {send} may hold only texts, and lists and tables of texts.",
        ),
        (FILE.replace("{ Name =", '{ "" ='), "content in {send} has an empty key."),
        (
            FILE.replace('{ Name = "A" }', '"A"'),
            "content in {send} must be a table, the ExternalTrigger of the triggers.",
        ),
        (
            FILE + 'priority = "high"',
            "priority in {send} is 'high' but must be one of urgent, normal or bulk.",
        ),
        (FILE + 'missed = "some"', "missed in {send} is 'some' but must be one of skip, latest or all."),
        (
            FILE + "missed_within = 0",
            "missed_within in {send} is 0 but must be a whole number of seconds from 1 to 86400.",
        ),
        (
            SEND,
            "A send takes its recipients from file, redis_set or url, but none of them is set in {send}.",
        ),
        (
            FILE + 'url = "https://h"',
            "A send takes its recipients from file, redis_set or url, "
            "but file and url are both set in {send}.",
        ),
        (FILE + "max_bytes = 5", "max_bytes in {send} is set, but it belongs to url and this send has file."),
        (SEND + 'redis_set = "k"', "kind in {send} is not set: redis_set needs email, identity or objectId."),
        (
            SEND + 'redis_set = "k"\nkind = "email"\nredis_url_env = "NOT_SET"',
            "redis_url_env in {send} names the variable 'NOT_SET', which is not set.",
        ),
        (
            SEND + 'redis_set = "k"\nkind = "email"\nredis_url_env = "VOLLEY_ACCOUNT_ID"',
            "The variable that redis_url_env in {send} names must be a URL that begins with redis://, "
            "rediss://, unix:// or sentinel://, with a number as its database.",
        ),
        (
            SEND + 'url = "ftp://h"',
            "url in {send} must be an http or https URL with a host, without user, password or fragment.",
        ),
        (
            SEND + 'url = "https://user:pass@h"',
            "url in {send} must be an http or https URL with a host, without user, password or fragment.",
        ),
        (
            SEND + 'url = "http://crm.example"',
            "url in {send} is http for a host other than this machine, so recipients would travel in the "
            "clear: use https, or set allow_http to true for a trusted network.",
        ),
        (
            SEND + 'url = "https://h"\nheader = "X"',
            "header in {send} is set, but neither header_env nor header_file, which say where its value is.",
        ),
        (
            SEND + 'url = "https://h"\nheader_env = "A"\nheader_file = "b"',
            "header_env and header_file are both set in {send}: keep one of them.",
        ),
        (
            SEND + 'redis_set = "k"\nkind = "email"\nredis_url_env = "A"\nredis_url_file = "b"',
            "redis_url_env and redis_url_file are both set in {send}: keep one of them.",
        ),
        (
            FILE + 'header_file = "b"',
            "header_file in {send} is set, but it belongs to url and this send has file.",
        ),
        (
            SEND + 'url = "https://h"\nheader_file = "/no/such/file"',
            "header_file in {send} names a file that cannot be read: No such file or directory.",
        ),
        (
            SEND + 'url = "https://h"\nheader = "Host"\nheader_env = "VOLLEY_ACCOUNT_ID"',
            "header in {send} must be the name of an HTTP header such as Authorization.",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(toml: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(toml, text)
    assert str(refused.value) == sentence.format(file=toml, send=f"[[sends]] news of {toml}")


def test_secrets_of_a_send_may_be_in_files(toml: Path) -> None:
    address, header = toml.parent / "redis_url", toml.parent / "header"
    address.write_text("redis://:set-secret@h\n")
    header.write_text("Bearer header-secret\r\n")
    text = (
        SEND
        + f'redis_set = "k"\nkind = "email"\nredis_url_file = "{address}"\n'
        + SEND.replace('"news"', '"more"')
        + f'url = "https://h"\nheader = "X-Key"\nheader_file = "{header}"\n'
    )
    settings = loaded(toml, text)
    first, second = (send.source for send in settings.sends)
    assert isinstance(first, SetSource)
    assert isinstance(second, UrlSource)
    assert (first.url, second.header) == (SecretStr("redis://:set-secret@h"), "X-Key")
    assert second.header_value == SecretStr("Bearer header-secret")
    assert {"redis://:set-secret@h", "Bearer header-secret"} < set(settings.secrets())
    assert "secret@h" not in repr(settings)


@pytest.mark.parametrize(
    ("keys", "content", "fault"),
    [
        (
            'redis_set = "k"\nkind = "email"\nredis_url_file',
            "hidden-1",
            "must be a URL that begins with",
        ),
        ('url = "https://h"\nheader_file', "hidden-1\nX: y", "must hold 1 to 4096 printable ASCII"),
    ],
)
def test_a_wrong_secret_in_a_file_is_told_without_its_value(
    toml: Path, keys: str, content: str, fault: str
) -> None:
    file = toml.parent / "value"
    file.write_text(content)
    with pytest.raises(SettingsError, match=f"^The file that .* names {fault}") as refused:
        loaded(toml, SEND + f'{keys} = "{file}"\n')
    assert "hidden" not in str(refused.value)


def test_a_header_that_cannot_be_sent_is_told_without_its_value(toml: Path) -> None:
    with pytest.raises(SettingsError, match="must hold 1 to 4096 printable ASCII") as refused:
        loaded(toml, SEND + 'url = "https://h"\nheader_env = "CRM"', CRM="secret\nX: y")
    assert "secret" not in str(refused.value)


contents = st.recursive(
    st.text(max_size=5) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@unhurried
@given(st.dictionaries(st.text(max_size=3), contents, max_size=3))
def test_what_is_taken_as_content_is_taken_in_a_trigger(content: dict[str, object]) -> None:
    table = {"name": "a", "cron": "* * * * *", "campaigns": [1], "content": content, "file": "f"}
    try:
        (read,) = read_sends([table], Path("f.toml"), "f.toml")
        send = checked_send(read, "", {})
    except SettingsError:
        return
    trigger = {"to": {"email": ["a@x.de"]}, "campaign_id": 1, "ExternalTrigger": send.content}
    wire.parse(orjson.dumps(trigger), max_bytes=10**6)


values = st.one_of(
    st.text(max_size=12),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.sampled_from(
        ["* * * * *", "30 2 31 4 *", "5L/2", "UTC", "https://h:x", "redis://h", "email", "all", "a"]
    ),
)


@unhurried
@given(
    st.dictionaries(st.sampled_from(sorted(SendTable.model_fields)), values, max_size=12),
    st.booleans(),
    st.text("*/-,#LW0123456789 MONJAF\u0662", max_size=20),
)
@example({"url": "https://["}, True, "* * * * *")
@example({"file": "\0"}, True, "* * * * *")
def test_any_table_gives_a_send_or_one_sentence(
    given_keys: dict[str, object], whole: bool, cron: str
) -> None:
    needed = {"name": "a", "cron": cron, "campaigns": [1], "content": {}} if whole else {}
    told = "."
    try:
        for table in read_sends([needed | given_keys], Path("f.toml"), "f.toml"):
            checked_send(table, " of f.toml", {"a": "b"})
    except SettingsError as error:
        told = str(error)
    assert told.endswith(".")
    assert "\n" not in told


def test_the_words_are_those_of_the_core() -> None:
    assert [each.value for each in Kind] == [each.value for each in model.Kind]
    assert [each.value for each in Priority] == [each.value for each in model.Priority]
