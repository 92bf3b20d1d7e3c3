# Lookbook's verbs. Each sets up .venv by itself when it is missing, or older than what it is made from.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# Another environment, with the oldest versions that pyproject.toml allows.
LOWEST := .venv-lowest/ready

.PHONY: help setup retrain up test test-quick test-lowest test-long test-costs test-any-order coverage faults browser compiler check bench lock

help:
	@echo "make setup       create .venv with what requirements.lock says"
	@echo "make retrain     download, train, evaluate, promote (the main job)"
	@echo "make up          Prefect with its page, workers and schedules, until Ctrl-C"
	@echo "make test        the tests (the pages' need Debian's chromium: installed when it is missing)"
	@echo "make test-quick  those without servers, browsers, kills and trainings: a good minute"
	@echo "make test-lowest the quick tests, with the oldest versions that pyproject.toml allows"
	@echo "make test-long   kills, and runs side by side, that take longer"
	@echo "make test-costs  make test, and what each file and each test costs, and by what"
	@echo "make test-any-order   make test in another order each time; it prints the seed"
	@echo "make coverage    make test, and the share of branches that it runs through"
	@echo "make faults      kills, errors, full disks, two at once at each change of a store: hours, and a C compiler"
	@echo "make check       ruff, import-linter and mypy"
	@echo "make bench       the benchmarks, against their baselines"
	@echo "make lock        resolve requirements.lock and requirements.lowest anew from pyproject.toml"

setup: $(READY)

$(READY): requirements.lock
$(LOWEST): requirements.lowest
$(READY) $(LOWEST): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "expected Python 3.11, 3.12 or 3.13, found $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
		{ echo "expected Python's venv module, found none; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "setting up $(@D) (about two minutes, 3 GB)"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(filter requirements.%,$^)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

retrain: $(READY)
	@$(BIN)/lookbook retrain

up: $(READY)
	@$(BIN)/lookbook up

TEST := $(BIN)/pytest --numprocesses auto --maxprocesses 8

test: $(READY) browser
	@$(TEST) -m "not long"

QUICK := "not server and not browser and not kill and not slow and not long"

test-quick: $(READY)
	@$(TEST) -m $(QUICK)

test-lowest: $(LOWEST)
	@$(<D)/bin/pytest --numprocesses auto --maxprocesses 8 -m $(QUICK)

test-costs: $(READY) browser
	@PYTHONPATH=tests $(TEST) -m "not long" -p costs

test-any-order: $(READY) browser
	@$(TEST) -m "not long" -p randomly

coverage: $(READY) browser
	@$(TEST) -m "not long" --cov --cov-report=
	@echo "branches covered by what runs inside the tests' own processes: $$($(BIN)/coverage report --format=total) %"

test-long: $(READY) browser compiler
	@$(TEST) -m long

faults: $(READY) compiler
	@$(BIN)/python tests/faults/campaign.py

browser:
	@command -v chromium-headless-shell >/dev/null || { echo "installing chromium, for the tests of the pages" && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium-headless-shell >/dev/null; } || \
		{ echo "expected chromium-headless-shell, found none; on Debian, as root: apt-get install chromium-headless-shell"; exit 1; }

compiler:
	@command -v cc >/dev/null || { echo "installing a C compiler, for the campaign of faults" && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev >/dev/null; } || \
		{ echo "expected a C compiler (cc), found none; on Debian, as root: apt-get install gcc libc6-dev"; exit 1; }

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python benchmarks/train.py
	@$(BIN)/python benchmarks/retrain.py
	@$(BIN)/python benchmarks/score.py
	@$(BIN)/python benchmarks/cluster.py --kills
	@$(BIN)/python benchmarks/collect.py --loop 10
	@$(BIN)/python benchmarks/review.py
	@$(BIN)/python benchmarks/prepare.py
	@$(BIN)/python benchmarks/evaluate.py
	@$(BIN)/python benchmarks/gate.py
	@$(BIN)/python benchmarks/memory.py
	@$(BIN)/python benchmarks/scale.py
	@$(BIN)/python benchmarks/help.py

# uv resolves for each Python that the project allows, not for the one that runs it; `lowest` has the oldest versions that it allows.
RESOLVE := .venv/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --generate-hashes --no-header

lock: $(READY)
	@$(BIN)/python -m venv .venv/lock && .venv/lock/bin/pip install --quiet --disable-pip-version-check uv
	@$(RESOLVE) --output-file requirements.lock pyproject.toml
	@$(RESOLVE) --resolution lowest-direct --no-annotate --output-file requirements.lowest pyproject.toml
