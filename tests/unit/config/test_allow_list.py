"""Allow-lists of test mode, and what is said where one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.settings import Settings, SettingsError, load

ACCOUNT = {"VOLLEY_ACCOUNT_ID": "a", "VOLLEY_PASSCODE": "p"}


def settings(folder: Path, toml: str, **more: str) -> Settings:
    file = folder / "volley.toml"
    file.write_text(toml)
    return load({**ACCOUNT, "VOLLEY_CONFIG": str(file), **more})


def test_without_one_nobody_is_kept_out() -> None:
    loaded = load(ACCOUNT)
    assert loaded.campaign("default", 65).test_recipients is None
    assert loaded.in_test_mode("default") == {}


def test_a_recipient_is_its_kind_and_its_value(tmp_path: Path) -> None:
    toml = '[campaigns.65]\ntest_recipients = ["email:a@example.com", "objectId:__g1", "identity:a:b, c"]\n'
    allowed = settings(tmp_path, toml).campaign("default", 65).test_recipients
    assert allowed is not None
    assert ("email", "a@example.com") in allowed
    assert ("identity", "a:b, c") in allowed
    assert ("identity", "a@example.com") not in allowed
    assert len(allowed) == 3


def test_an_empty_list_lets_nobody_through(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "[campaigns.65]\ntest_recipients = []\n")
    assert loaded.in_test_mode("default") == {65: 0}


def test_the_variable_takes_commas_and_lines(tmp_path: Path) -> None:
    loaded = load(
        {**ACCOUNT, "VOLLEY_TEST_RECIPIENTS": "email:a@example.com, identity:u 17,\nobjectId:__g1\n"}
    )
    assert loaded.in_test_mode("default") == {0: 3}
    file = tmp_path / "allowed"
    file.write_text("email:a@example.com\n")
    assert load({**ACCOUNT, "VOLLEY_TEST_RECIPIENTS_FILE": str(file)}).in_test_mode("default") == {0: 1}


def test_where_both_are_set_both_must_name_a_recipient(tmp_path: Path) -> None:
    toml = '[campaigns.65]\ntest_recipients = ["identity:a", "identity:b"]\n'
    loaded = settings(tmp_path, toml, VOLLEY_TEST_RECIPIENTS="identity:b,identity:c")
    assert loaded.in_test_mode("default") == {65: 1, 0: 2}
    assert loaded.campaign("default", 66).test_recipients == loaded.default_policy.test_recipients


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('["identity:u-17", "secret-person"]', "entry 2 is none"),
        ('["phone:secret-person"]', "entry 1 is none"),
        ('["identity:"]', "entry 1 is none"),
        ('"secret-person"', "must be a list such as"),
        ("[17]", "must be a list such as"),
    ],
)
def test_a_wrong_list_is_told_without_its_values(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings(tmp_path, f"[campaigns.65]\ntest_recipients = {value}\n")
    text = str(raised.value)
    assert text.startswith("test_recipients in [campaigns.65] of ")
    assert said in text
    assert "secret-person" not in text


def test_a_wrong_variable_is_told_without_its_values() -> None:
    with pytest.raises(
        SettingsError, match=r"^VOLLEY_TEST_RECIPIENTS must list recipients .* entry 2"
    ) as raised:
        load({**ACCOUNT, "VOLLEY_TEST_RECIPIENTS": "identity:u-17,secret-person"})
    assert "secret-person" not in str(raised.value)
