"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from config.settings import describe
from worker.store.scripts import SHARED

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/decisions.md", "docs/redis.md")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_what_is_made_from_the_code_is_as_the_code_makes_it(generate: ModuleType, page: str) -> None:
    text = (ROOT / page).read_text()
    assert generate.generated(text) == text, "run `make docs`"


def test_every_block_stands_on_some_page(generate: ModuleType) -> None:
    text = "".join((ROOT / page).read_text() for page in PAGES)
    assert all(f"<!-- {name} -->" in text for name in generate.BLOCKS)


def test_every_page_is_generated(generate: ModuleType) -> None:
    assert generate.PAGES == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page: str) -> None:
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_every_setting_that_is_named_exists() -> None:
    known = {name for name, *_ in describe()}
    for page in (*PAGES, ".env.example", "CHANGELOG.md"):
        named = set(re.findall(r"VOLLEY_[A-Z_]*[A-Z]", (ROOT / page).read_text()))
        assert named <= known, page


def test_every_script_says_its_keys_arguments_and_result() -> None:
    for file in (ROOT / "worker" / "store" / "lua").glob("*.lua"):
        head = file.read_text().split("\n\n", 1)[0]
        assert head.startswith("-- "), file.name
        if file.stem not in SHARED:
            assert "KEYS" in head, file.name
            assert "Result" in head, file.name
