"""The rules of campaigns and accounts as settings: what they come to, and the sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.rules import CampaignRules, QuietHours
from config.settings import Settings, SettingsError, load

BASE = {"VOLLEY_ACCOUNT_ID": "A", "VOLLEY_PASSCODE": "passcode"}
SHOP = '[accounts.shop]\naccount_id = "S"\npasscode = "p"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "volley.toml"


def loaded(file: Path, text: str, **environ: str) -> Settings:
    file.write_text(text)
    return load({**BASE, "VOLLEY_CONFIG": str(file)} | environ)


def test_there_are_no_rules_unless_some_are_given() -> None:
    settings = load(BASE)
    assert settings.default_policy.rules == CampaignRules()
    assert settings.account().calls_per_second == settings.account().recipients_per_second == 0


def test_a_campaign_says_its_rules(file: Path) -> None:
    text = (
        '[campaigns.17]\nquiet_hours = "22:00-08:00, 13:00-14:00"\ntime_zone = "Asia/Kolkata"\nlinger = 0.5\n'
        "recipients_per_hour = 600\nmax_per_hour = 10\nmax_per_day = 20\ncanary = 5\ncanary_wait = 900\n"
    )
    rules = loaded(file, text).campaign("default", 17).rules
    assert rules == CampaignRules(
        quiet=QuietHours(((1320, 480), (780, 840)), "Asia/Kolkata"),
        recipients_per_hour=600,
        linger_seconds=0.5,
        max_per_hour=10,
        max_per_day=20,
        canary=5,
        canary_wait_seconds=900,
    )


def test_what_a_campaign_leaves_out_comes_from_the_variables_and_it_may_take_it_back(file: Path) -> None:
    text = (
        '[campaigns.17]\ncanary = 0\nquiet_hours = ""\n[campaigns.18]\ntime_zone = "Europe/Berlin"\n'
        '[campaigns.19]\nquiet_hours = "12:00-24:00"\n'
    )
    settings = loaded(
        file, text, VOLLEY_QUIET_HOURS="22:00-08:00", VOLLEY_TIME_ZONE="Asia/Kolkata", VOLLEY_CANARY="9"
    )
    night = ((1320, 480),)
    assert settings.default_policy.rules == CampaignRules(quiet=QuietHours(night, "Asia/Kolkata"), canary=9)
    assert settings.campaign("default", 17).rules == CampaignRules()
    assert settings.campaign("default", 18).rules.quiet == QuietHours(night, "Europe/Berlin")
    assert settings.campaign("default", 19).rules.quiet == QuietHours(((720, 0),), "Asia/Kolkata")


def test_an_account_has_paces_of_its_own(file: Path) -> None:
    settings = loaded(file, SHOP + "calls_per_second = 2.5\n", VOLLEY_RECIPIENTS_PER_SECOND="100")
    assert (settings.account("shop").calls_per_second, settings.account().calls_per_second) == (2.5, 0)
    assert settings.account("shop").recipients_per_second == 100


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('quiet_hours = "10-12"', "{k} is '10-12' but must be times such as 22:00-08:00, with commas."),
        ('quiet_hours = "24:00-08:00"', "{k} is '24:00-08:00' but a day ends at 24:00."),
        ('quiet_hours = "22:00-24:01"', "{k} is '22:00-24:01' but a day ends at 24:00."),
        (
            'quiet_hours = "08:00-08:00"',
            "{k} is '08:00-08:00' but begins and ends at the same time: to hold a campaign, pause it.",
        ),
        ('time_zone = "Mars"', "{k} is 'Mars' but must be a time zone such as Asia/Kolkata or UTC."),
        ('time_zone = "../etc"', "{k} is '../etc' but must be a time zone such as Asia/Kolkata or UTC."),
        ("max_per_hour = -1", "{k} is -1 but must be a whole number from 0 to 1000000000."),
        ("linger = 4000", "{k} is 4000 but must be a number of seconds from 0 to 3600."),
        ("canary_wait = 60", "{k} is set but canary is not: there is nothing to wait behind."),
    ],
)
def test_a_wrong_rule_is_told_in_a_sentence_that_names_it(file: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        loaded(file, f"[campaigns.17]\n{text}\n")
    key = f"{text.partition(' ')[0]} in [campaigns.17] of {file}"
    assert str(wrong.value) == sentence.format(k=key)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("QUIET_HOURS", "night", "{k} is 'night' but must be times such as 22:00-08:00, with commas."),
        ("TIME_ZONE", "Nowhere", "{k} is 'Nowhere' but must be a time zone such as Asia/Kolkata or UTC."),
        ("CALLS_PER_SECOND", "1001", "{k} is '1001' but must be a number from 0 to 1000."),
        ("CANARY", "many", "{k} is 'many' but must be a whole number from 0 to 1000000000."),
    ],
)
def test_a_wrong_variable_is_told_in_a_sentence_that_names_it(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        load({**BASE, f"VOLLEY_{name}": value})
    assert str(wrong.value) == sentence.format(k=f"VOLLEY_{name}")
