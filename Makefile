# Everything a newcomer or CI needs; `make help` lists it. Targets create .venv by themselves (deploy/setup).
#
# Set PYTHON to choose the interpreter. Packages come from the index that this machine's pip or uv is configured for.

PYTHON ?= python3
ARGS ?=
# Of the demo's agents; only from the command line: others may use this name in the environment.
MODEL =
# Workers of the suite: one per core, but each runs a NATS server of its own that waits for the disk.
MAX_WORKERS ?= 4

VENV := .venv
BIN := $(VENV)/bin
# Two stamps, since the demo needs neither linters nor test tools.
RUNTIME := $(VENV)/.installed-server
DEV := $(VENV)/.installed-dev
SETUP := deploy/setup

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-replay check format bench chaos system-deps harnesses clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## Create .venv with Regrow and all that its development needs

demo: $(RUNTIME) ## Watch a tree of processes survive kill -9 (ARGS="FOLDER"; MODEL=scripted: with agents)
	@$(if $(MODEL),REGROW_MODEL='$(MODEL)') $(BIN)/python examples/demo.py $(ARGS)

# Tests start hundreds of programs: none of them compiles Regrow again, also where Python is told to write no bytecode.
test: check ## Run the checks, then the suite (ARGS="-k name" selects)
	@$(BIN)/python -m compileall -q libs cli services
	@$(BIN)/python -m pytest -n logical --maxprocesses $(MAX_WORKERS) --dist loadgroup $(ARGS)

test-replay: $(DEV) ## The suite once more, every process folded anew before each of its inputs
	@REGROW_TEST_REPLAY=1 $(BIN)/python -m pytest -n logical --maxprocesses $(MAX_WORKERS) --dist loadgroup $(ARGS)

check: $(DEV) ## Lint, formatting, types, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports

format: $(DEV) ## Format the code and apply the linter's safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(DEV) ## Run the benchmarks (ARGS is passed on)
	@$(BIN)/python benchmarks/run.py $(ARGS)

chaos: $(DEV) ## Run the long form of the tests that kill real processes
	@REGROW_CHAOS=long $(BIN)/python -m pytest tests/chaos -m chaos --timeout 1800 $(ARGS)

system-deps: ## Debian: install what keeps tests from being skipped (optional; root or passwordless sudo)
	@sh deploy/debian/system-deps

harnesses: ## Install agents' harnesses from npm into .harness (ARGS="pi codex" only these)
	@sh deploy/harnesses/install $(ARGS)

clean: ## Remove .venv, caches and build results
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(RUNTIME): pyproject.toml constraints.txt $(SETUP)
	@sh $(SETUP) '$(PYTHON)' $(VENV) server
	@touch $@

$(DEV): pyproject.toml constraints.txt $(SETUP)
	@sh $(SETUP) '$(PYTHON)' $(VENV) dev
	@touch $(RUNTIME) $@
