# make reproduce   one seed of the paper's tables and figures, write report.html   (sets everything up first)
# make test        all tests                                                       (sets everything up first)
# make test-browser the page of results in a browser: Debian's chromium, installed if there is none
# make fuzz        10,000 cases of bad input, real processes, planted faults
# make check       formatting, lint, types, the floors of the house
# make lock        renew lock.txt from the newest releases, run the tests on them
# make test-range  the tests at the oldest and the newest releases that pyproject.toml allows
# make docs        the documentation as a site, in site/; its tables written from the committed rows
# make bench       speed: whole models, recall training, decoding
# make report      rebuild the report from finished runs
# Variables: PYTHON (the interpreter that .venv is made from), ARGS (passed on to the command).

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
AS_ROOT := $(shell test "$$(id -u)" = 0 || echo sudo)
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint lock.txt

.PHONY: setup test test-browser fuzz check bench report reproduce lock test-range docs

setup: $(READY)

$(READY): pyproject.toml lock.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear .venv
	$(PIP) 'setuptools>=77'
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $(READY)

test: $(READY)
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-browser: $(READY)
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { $(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install --yes -qq chromium; }
	$(BIN)/python -m pytest browser_tests $(ARGS)

fuzz: $(READY)
	$(BIN)/python -m pytest -n 2 tests/fuzz --fuzz-cases full $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check src tests browser_tests .ci
	$(BIN)/ruff check src tests browser_tests .ci
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python .ci/environments.py check
	$(BIN)/python .ci/pages.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: $(READY)
	$(BIN)/python .ci/pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock:
	$(PYTHON) .ci/environments.py lock $(ARGS)

test-range:
	$(PYTHON) .ci/environments.py range $(ARGS)

bench: $(READY)
	$(BIN)/unimatrix bench throughput $(ARGS)
	$(BIN)/unimatrix bench throughput --models triple-latent triple-slot triple-hybrid --lengths 64 128 256 512 2048 --out bench/latent
	$(BIN)/unimatrix bench throughput --models recurrent-ffn recurrent-ffn-readout recurrent-ffn-hybrid mamba2 --lengths 64 128 256 512 --out bench/recurrent-ffn
	$(BIN)/unimatrix bench recall
	$(BIN)/unimatrix bench decode --models unimatrix-core unimatrix transformer

report: $(READY)
	$(BIN)/unimatrix report $(ARGS)

reproduce: $(READY)
	$(BIN)/unimatrix reproduce $(ARGS)
