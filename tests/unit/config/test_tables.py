"""The TOML file: what it may say, and the sentence that names file, table and key for what it may not."""

from pathlib import Path

import pytest

from config.settings import Settings, SettingsError, Unknown, load

SHOP = '[accounts.shop]\naccount_id = "SHOP-1"\npasscode = "shop-passcode"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "volley.toml"


def loaded(file: Path, text: str, **environ: str) -> Settings:
    file.write_text(text)
    return load({"VOLLEY_CONFIG": str(file)} | environ)


def test_an_account_of_the_file_takes_what_it_leaves_out_from_the_environment(file: Path) -> None:
    settings = loaded(
        file,
        SHOP + 'token = "t"\nregion = "in1"\nrequest_deadline = 10\n',
        VOLLEY_PERMIT_LEASE="60",
        VOLLEY_MAX_IN_FLIGHT="2",
    )
    shop = settings.account("shop")
    assert (shop.name, shop.account_id, shop.base_url) == ("shop", "SHOP-1", "https://in1.api.clevertap.com")
    assert (shop.request_deadline_seconds, shop.permit_lease_seconds, shop.max_in_flight) == (10, 60, 2)
    assert list(settings.accounts) == ["shop"]


def test_the_token_of_the_environment_belongs_to_its_own_account_only(file: Path) -> None:
    settings = loaded(file, SHOP, VOLLEY_ACCOUNT_ID="A", VOLLEY_PASSCODE="passcode", VOLLEY_TOKEN="token")
    assert settings.account("default").token is not None
    assert settings.account("shop").token is None
    assert settings.concurrency == 2 * (1 + 3) + 2


def test_a_base_url_of_the_environment_holds_for_all_accounts_without_their_own(file: Path) -> None:
    text = SHOP + 'region = "in1"\n' + SHOP.replace("shop", "site").replace("SHOP", "SITE")
    settings = loaded(file, text + 'base_url = "https://own.example"\n', VOLLEY_BASE_URL="http://127.0.0.1:9")
    assert settings.account("shop").base_url == "http://127.0.0.1:9"
    assert settings.account("site").base_url == "https://own.example"


def test_a_secret_comes_from_a_variable_or_a_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token-in-a-file\n")
    text = (
        f'[accounts.shop]\naccount_id = "S"\npasscode_env = "VOLLEY_SHOP_PASSCODE"\n'
        f'token_file = "{tmp_path / "token"}"\n'
    )
    settings = loaded(file, text, VOLLEY_SHOP_PASSCODE="passcode-in-a-variable")
    assert settings.secrets() == ["passcode-in-a-variable", "token-in-a-file"]


def test_a_campaigns_policy_is_merged_with_the_defaults(file: Path) -> None:
    text = SHOP + '[campaigns.17]\nunknown = "resend"\n[campaigns.18]\naccount = "shop"\nmax_age = 600\n'
    settings = loaded(file, text, VOLLEY_MAX_ATTEMPTS="5", VOLLEY_ACCOUNT_ID="A", VOLLEY_PASSCODE="passcode")
    for account in ("default", "shop"):
        policy = settings.campaign(account, 17)
        assert (policy.unknown, policy.max_attempts, policy.max_age_seconds) == (Unknown.RESEND, 5, 86_400)
    assert settings.campaign("shop", 18).max_age_seconds == 600
    assert settings.campaign("default", 18) == settings.default_policy == settings.campaign("shop", 99)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("accounts = 1", "accounts in {file} must be tables such as [accounts.shop]."),
        ("[[accounts]]", "accounts in {file} must be tables such as [accounts.shop]."),
        ("[accounts]\nshop = 1", "The value in [accounts.shop] of {file} must be a table."),
        ("[account.shop]", "'account' in {file} is not a setting (did you mean accounts?)."),
        (
            "[[sends]]\nat = 1",
            "'at' in [[sends]] number 1 of {file} is not a setting.",
        ),
        ("[accounts.Shop]", "'Shop' in {file} is not an account's name: 1 to 32 of a-z, 0-9, _ and -."),
        (
            SHOP + "pascode = 1",
            "'pascode' in [accounts.shop] of {file} is not a setting (did you mean passcode?).",
        ),
        (
            SHOP + 'max_in_flight = "3"',
            "max_in_flight in [accounts.shop] of {file} is '3' but must be a whole number from 1 to 100.",
        ),
        (
            SHOP + "max_in_flight = 4",
            "max_in_flight in [accounts.shop] of {file} is 4 but CleverTap allows 3 requests in flight per "
            "account: lower it, or set allow_more_in_flight in [accounts.shop] of {file} to true if "
            "CleverTap has raised the account's limit.",
        ),
        (
            SHOP + "request_deadline = 41",
            "VOLLEY_PERMIT_LEASE is 45 s but must exceed request_deadline in [accounts.shop] of {file} "
            "(41 s) by at least 5 s, or a slow call would outlive its permit: "
            "raise the lease or lower the deadline.",
        ),
        (SHOP + "token = 5", "token in [accounts.shop] of {file} must be text."),
        (
            SHOP + 'passcode_env = "X"',
            "passcode and passcode_env are both set in [accounts.shop] of {file}: keep one of them.",
        ),
        (
            '[accounts.shop]\naccount_id = "S"\npasscode_env = "NOT_SET"',
            "passcode_env in [accounts.shop] of {file} names the variable 'NOT_SET', which is not set.",
        ),
        (
            '[accounts.shop]\naccount_id = "S"\npasscode_file = "/does/not/exist"',
            "passcode_file in [accounts.shop] of {file} names a file that cannot be read: "
            "No such file or directory.",
        ),
        (
            '[accounts.shop]\naccount_id = "S"',
            "account_id in [accounts.shop] of {file} is set but passcode in [accounts.shop] of {file} is "
            "not: an account needs both.",
        ),
        (
            "[accounts.shop]",
            "account_id in [accounts.shop] of {file} is not set: an account needs its id and its passcode.",
        ),
        (
            SHOP + SHOP.replace("accounts.shop", "accounts.site"),
            "The accounts shop and site of {file} have the same account_id: each would have its own requests "
            "in flight, and together they would pass CleverTap's limit.",
        ),
        ("[campaigns.x]", "'x' in {file} is not a campaign's id: it is a whole number above 0."),
        ("[campaigns.017]", "'017' in {file} is not a campaign's id: it is a whole number above 0."),
        (
            SHOP + '[campaigns.17]\naccount = "site"',
            "account in [campaigns.17] of {file} is 'site' but the accounts that exist are shop.",
        ),
        (
            SHOP + "[campaigns.17]\nmax_attempts = 0",
            "max_attempts in [campaigns.17] of {file} is 0 but must be a whole number from 1 to 100.",
        ),
        (
            SHOP + "[campaigns.17]\ncolour = 2",
            "'colour' in [campaigns.17] of {file} is not a setting.",
        ),
        ("x = ", "{file} is not valid TOML: Invalid value (at end of document)."),
    ],
)
def test_what_is_wrong_in_the_file_is_refused_in_one_sentence(file: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(file, text)
    assert str(caught.value) == sentence.replace("{file}", str(file))


def test_one_account_in_the_environment_and_in_the_file_is_refused(file: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(file, SHOP.replace("shop", "default"), VOLLEY_ACCOUNT_ID="A", VOLLEY_PASSCODE="p")
    assert str(caught.value) == (
        "The account default is described by VOLLEY_ACCOUNT_ID, VOLLEY_PASSCODE or VOLLEY_TOKEN and also "
        f"in [accounts.default] of {file}: keep one of them."
    )


def test_a_secret_of_the_file_is_in_no_error(file: Path) -> None:
    for wrong in ("max_in_flight = 99", "permit_lease = 1", 'region = "x"', "junk = 1", "token = [1]"):
        with pytest.raises(SettingsError) as caught:
            loaded(file, SHOP + wrong)
        assert "shop-passcode" not in repr(caught.value)
        assert caught.value.__context__ is None
