# GNU make. `make` alone lists what there is; every target sets up what it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PYTEST_FLAGS ?= -n 2 --dist worksteal
LOCK_FLAGS ?=
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
# Addresses of package registries and paths of one machine belong in no file. (The brackets keep this line out.)
FORBIDDEN := py[p]i\.org|pythonhost[e]d|npm[j]s\.(org|com)|deb\.debi[a]n|/wor[k]/

.PHONY: help setup demo test check audit fuzz bench chaos compose-test fmt docs lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Create .venv with the locked packages (needs Python 3.11 or newer; PYTHON=... picks one)

demo: $(INSTALLED) ## Send a realistic day in small to a stand-in of the API, and compare the books
	$(BIN)/volley demo

test: $(INSTALLED) ## Run the tests (PYTEST_FLAGS="-x tests/unit" to choose)
	$(BIN)/pytest $(PYTEST_FLAGS)

check: $(INSTALLED) ## Lint (with bandit's rules), formatting, types, lock files, forbidden words, audit if it answers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python requirements/lock.py --check
	@status=0; git grep --untracked -nIE '$(FORBIDDEN)' -- . || status=$$?; \
	if [ $$status -eq 0 ]; then echo "The lines above name a registry's host or a path of one machine."; exit 1; fi; \
	[ $$status -eq 1 ]
	$(BIN)/python requirements/audit.py --if-it-answers

audit: $(INSTALLED) ## Ask for known weaknesses of the locked packages (as in `check`, but no answer is a failure)
	$(BIN)/python requirements/audit.py

fuzz: $(INSTALLED) ## Append 100,000 hostile entries and account for each one (ARGS="--count 1000000 --seed 7")
	$(BIN)/python -m tests.fuzz.intake $(ARGS)

bench: $(INSTALLED) ## Measure rates and sizes beside the usual ways (ARGS="--scale 0.1 --scenario singles")
	$(BIN)/python -m benchmarks $(ARGS)

chaos: $(INSTALLED) ## Kill everything at random and count what comes of it (ARGS="--minutes 10 --seed 7")
	$(BIN)/python -m tests.chaos $(ARGS)

compose-test: $(INSTALLED) ## Build the image and send one trigger through docker-compose.yml (as root on Debian; not in `make test`)
	tests/compose/run

fmt: $(INSTALLED) ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## Write the parts of README.md and docs/ that are made from the code
	$(BIN)/python docs/generate.py

lock: $(INSTALLED) ## Resolve requirements/*.lock from pyproject.toml (LOCK_FLAGS=--upgrade for the newest versions)
	$(BIN)/python requirements/lock.py $(LOCK_FLAGS)

clean: ## Remove .venv, build results and caches
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Volley needs Python 3.11 or newer as '$(PYTHON)'; name another one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing the locked packages into .venv (about a minute the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
# Twice quiet: otherwise pip repeats what the build backend says to its own authors.
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
