# The commands: make run, test, check, client, docs, bench, chaos, fuzz, screenshots. Each sets up .venv on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 7071
DATA ?= .data
DEMO ?= 1
WORKERS ?= 0
# Processes that share the tests, a file each at a time: most of them wait for hosts, timers and fences.
TESTERS ?= 3
SECONDS ?= 240
SEED ?=
EXAMPLES ?= 300
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test check format client docs bench chaos fuzz screenshots clean
.DEFAULT_GOAL := run

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Truestop needs Python 3.11; say make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -e '.[dev]'
	@touch $(STAMP)

run: $(STAMP)
	@exec $(BIN)/python -m devhost --port $(PORT) --data $(DATA) --workers $(WORKERS) $(if $(filter 0,$(DEMO)),,--demo)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --follow-imports silent truestop

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

client: $(STAMP)
	$(BIN)/python scripts/generate_sync_client.py

bench: $(STAMP)
	$(BIN)/python -m bench $(ARGS)

chaos: $(STAMP)
	TRUESTOP_TEST_CHAOS_SECONDS=$(SECONDS) TRUESTOP_TEST_SEED=$(SEED) $(BIN)/python -m pytest -s tests/chaos/test_chaos.py $(ARGS)

docs: $(STAMP)
	$(BIN)/python -m tests.docs.tables
	$(BIN)/zensical build --strict --clean --config-file mkdocs.yml
	@echo "The documentation: site/index.html"

screenshots: $(STAMP)
	$(BIN)/python -m tests.browser.screenshots docs/screenshots

fuzz: $(STAMP)
	TRUESTOP_TEST_FUZZ_EXAMPLES=$(EXAMPLES) TRUESTOP_TEST_SEED=$(SEED) $(BIN)/python -m pytest -s tests/blackbox/test_fuzz.py $(ARGS)

clean:
	rm -rf $(VENV) site .cache .mypy_cache .pytest_cache .ruff_cache
