# Nothing but Python >= 3.11 and this file is needed; the network is used only to reach a package registry.
#   make demo    train real models on real digits, print the table, say where the report is
#   make test    the fast tests
#   make paper   a paper from results: make paper DIR=results/my-study
# PYTHON=python3.12 picks the interpreter, TORCH_INDEX=URL takes torch and torchvision from another index (CPU-only builds).

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
TORCH_INDEX ?=
STUDY ?= studies/digits.yaml
DEMO_OUTPUT ?= results
DIR ?= $(DEMO_OUTPUT)/digits
TEST_JOBS ?= 2
SEED ?=
DATA ?= ../shared/data
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP_VERSION := 26.3
PINS := --constraint constraints.txt --build-constraint constraints.txt
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: help setup setup-dev demo figures tables paper submission test test-slow test-gpu lint audit format docs bench scorecard text-backbones clean clean-all
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

# --- set-up: done once, and again when the pins or the package's needs change ------------------------------------------------

$(VENV)/.pip:
	@python="$(PYTHON)"; \
	check='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if [ -z "$$python" ]; then \
	  for candidate in python3 python3.13 python3.12 python3.11 python; do \
	    if "$$candidate" -c "$$check" >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	  done; \
	fi; \
	if [ -z "$$python" ] || ! "$$python" -c "$$check"; then \
	  echo "peftlab needs Python 3.11 or later; found: $$($${python:-python3} --version 2>&1). Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; \
	fi; \
	if [ -x $(BIN)/python ] && ! $(BIN)/python -c "$$check"; then \
	  echo "$(VENV) was made with an older Python; remove it (make clean-all) and try again" >&2; exit 2; \
	fi; \
	echo "setting up $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV) || { echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@$(PIP) install --quiet "pip==$(PIP_VERSION)"
	@touch $@

$(VENV)/.installed: $(VENV)/.pip pyproject.toml constraints.txt
	@echo "installing pinned dependencies (torch is the large one; see README for disk, time and the CPU-only alternative)"
ifneq ($(TORCH_INDEX),)
	@$(PIP) install --quiet --no-deps $$(grep -E '^(torch|torchvision)==' constraints.txt) --index-url $(TORCH_INDEX)
endif
	@$(PIP) install --quiet $(PINS) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) install --quiet $(PINS) --editable ".[onnx,wandb,mlflow,tensorboard,optuna,ray]" --group dev
	@$(PIP) install --quiet --no-deps $$(sed -n '/^# --- alone/,$$p' constraints.txt | grep ==)
	@touch $@

setup: $(VENV)/.installed  ## make .venv with the pinned dependencies
setup-dev: $(VENV)/.installed-dev  ## the same, and what development needs

# --- use ---------------------------------------------------------------------------------------------------------------------

demo: setup  ## run studies/digits.yaml: table and report in a few minutes
	@$(BIN)/peftlab run "$(STUDY)" --output "$(DEMO_OUTPUT)"

figures: setup  ## report/figures of DIR (default: the demo's results), with the report
	@$(BIN)/peftlab report "$(DIR)"

tables: figures  ## report/tables of DIR: one command makes both

paper: setup  ## paper/ of DIR: LaTeX sources from the records, and the PDF where latexmk is installed
	@$(BIN)/peftlab paper "$(DIR)"

submission: setup  ## the same, and an anonymised archive with checksums
	@$(BIN)/peftlab paper "$(DIR)" --submission

scorecard: setup-dev  ## docs/scorecard.md: every claim, the command that shows it, what it printed
	@$(BIN)/python tools/scorecard.py

text-backbones: setup-dev  ## real models of texts for studies, into build/backbones
	@$(BIN)/python tools/text_backbones.py

# files in another order, and the tests within each: what a test leaves behind would show in another one
ORDER = $(if $(SEED),--random-order-bucket=module --random-order-seed=$(SEED) --no-loadscope-reorder)
# a file's tests in one process: models that are trained once for all tests of a file are trained once
BY_FILE = --dist loadfile
# no test needs a hub, and a test that asks one must fail the same way everywhere
test test-slow test-gpu: export HF_HUB_OFFLINE = 1
test test-slow test-gpu: export HF_DATASETS_OFFLINE = 1
# the workers are the parallelism: with the threads of numeric libraries beside them each test would wait for the others'
test test-slow: export OMP_NUM_THREADS = 1

test: setup-dev  ## the fast tests; SEED=7 in the seventh random order
	$(BIN)/python -m pytest -n $(TEST_JOBS) $(BY_FILE) -m "not slow and not gpu" $(ORDER)

test-slow: setup-dev  ## the tests that train for longer, open a browser or kill processes
	$(BIN)/python -m pytest -n $(TEST_JOBS) $(BY_FILE) -m "slow and not gpu" $(ORDER)

test-gpu: setup-dev  ## the tests that need an accelerator
	$(BIN)/python -m pytest -m gpu

lint: setup-dev  ## style, types, layers, pins
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python tools/pins.py --check

audit: $(VENV)/.pip  ## known security holes of the pinned packages, by pip-audit
	@$(BIN)/python tools/audit.py

format: setup-dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: setup-dev  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "documentation: site/index.html"

bench: setup-dev  ## every benchmark, hours of a quiet machine; goes on where it was stopped; results in build/bench
	@$(BIN)/python benchmarks/_all.py --data $(DATA)

clean:  ## remove what was built, keep .venv and results
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

clean-all: clean  ## the same, and .venv
	rm -rf $(VENV)
