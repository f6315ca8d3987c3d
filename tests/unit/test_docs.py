"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

from config.sends import SendTable
from config.settings import SettingsError, describe, load
from config.tables import AccountTable, CampaignTable
from worker.cli.show import outcome_json
from worker.core.model import Kind, Priority, Reason, Recipient, Status
from worker.store.cells import Row
from worker.store.outcomes import Outcome
from worker.store.scripts import ALSO, SHARED

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def toml(readme: str) -> str:
    """The example of the file that VOLLEY_CONFIG names."""
    found = re.search(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("page", PAGES)
def test_what_is_made_from_the_code_is_as_the_code_makes_it(generate: ModuleType, page: str) -> None:
    text = (ROOT / page).read_text()
    assert generate.generated(text) == text, "run `make docs`"


def test_every_block_stands_on_some_page(generate: ModuleType) -> None:
    text = "".join((ROOT / page).read_text() for page in PAGES)
    assert all(f"<!-- {name} -->" in text for name in generate.BLOCKS)


def test_every_page_that_has_a_block_is_generated(generate: ModuleType) -> None:
    assert set(generate.PAGES) == {page for page in PAGES if "<!-- /" in (ROOT / page).read_text()}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page: str) -> None:
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_every_setting_that_is_named_exists() -> None:
    known = {name for name, *_ in describe()}
    for page in (*PAGES, ".env.example", "CHANGELOG.md"):
        named = set(re.findall(r"VOLLEY_[A-Z_]*[A-Z]", (ROOT / page).read_text()))
        assert named <= known, page


def test_the_example_of_the_toml_file_is_taken_as_it_stands(tmp_path: Path, toml: str) -> None:
    file = tmp_path / "volley.toml"
    file.write_text(toml)
    settings = load({"VOLLEY_CONFIG": str(file), "SHOP_PASSCODE": "passcode"})
    assert settings.campaign("shop", 1709550110).weight == 3


@pytest.mark.parametrize(("table", "keys"), [("accounts", AccountTable), ("campaigns", CampaignTable)])
def test_the_example_of_the_toml_file_shows_every_key(
    toml: str, table: str, keys: type[AccountTable] | type[CampaignTable]
) -> None:
    section = toml.partition(f"[{table}.")[2].partition("\n[")[0]
    assert set(re.findall(r"^#?([a-z_]+) = ", section, re.MULTILINE)) == set(keys.model_fields)


def test_the_example_of_the_toml_file_shows_every_key_of_a_send(toml: str) -> None:
    section = toml.partition("[[sends]]")[2].partition("\n[")[0]
    assert set(re.findall(r"^#?([a-z_]+) = ", section, re.MULTILINE)) == set(SendTable.model_fields)


def test_the_commented_keys_of_the_toml_example_are_valid_toml(toml: str) -> None:
    for line in re.findall(r"^#([a-z_]+ = .*)$", toml, re.MULTILINE):
        assert tomllib.loads(line)


def test_every_key_of_an_outcome_is_explained(readme: str) -> None:
    table = readme.partition("`volley outcomes --json`;")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in re.findall(r"`([a-z_]+)`", row)} == set(outcome_json(_outcome()))


def _outcome() -> Outcome:
    recipient = Recipient(Kind.EMAIL, "a@example.com")
    return Outcome(
        *(0, Status.ACCEPTED, Reason.NONE, 17, recipient, "1-0", None, Priority.NORMAL, 1, 200, 1, None),
        *(0, 0, None, None, "", Row(1, recipient, "1-0"), ""),
    )


def _example_of_env() -> dict[str, str]:
    """.env.example as the containers would get it, with what must be filled in filled in."""
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line.startswith("VOLLEY_")]
    return {name: value or "filled-in" for name, _, value in (line.partition("=") for line in lines)}


def test_the_example_of_the_environment_needs_nothing_but_its_empty_values() -> None:
    account = load(_example_of_env()).account()
    assert account.token is not None


@pytest.mark.parametrize("name", ["VOLLEY_ACCOUNT_ID", "VOLLEY_PASSCODE"])
def test_the_example_of_the_environment_has_what_an_account_cannot_do_without(name: str) -> None:
    environ = _example_of_env()
    del environ[name]
    with pytest.raises(SettingsError, match=name):
        load(environ)


def test_the_commented_lines_of_the_example_of_the_environment_show_defaults() -> None:
    """Those for trying Volley without CleverTap apart."""
    text = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^#(VOLLEY_[A-Z_]+)=(.*)$", text, re.MULTILINE))
    del shown["VOLLEY_BASE_URL"], shown["VOLLEY_ALLOW_HTTP"]
    assert shown == {name: default for name, _, default, _ in describe() if name in shown}


def test_every_script_says_its_keys_arguments_and_result() -> None:
    for file in (ROOT / "worker" / "store" / "lua").glob("*.lua"):
        head = file.read_text().split("\n\n", 1)[0]
        assert head.startswith("-- "), file.name
        if file.stem not in {*SHARED, *chain.from_iterable(ALSO.values())}:
            assert "KEYS" in head, file.name
            assert "Result" in head, file.name
