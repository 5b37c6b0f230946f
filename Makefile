# A fresh machine needs only `make demo` and `make test`. Both create .venv, and .testbed for the real vLLM servers.
# `make help` lists all commands.

SHELL := /bin/bash

PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.14,\
	$(shell $(python) -c 'import sys; print("$(python)" if (3, 11) <= sys.version_info < (3, 15) else "")' 2>/dev/null)) python3)
BIN := .venv/bin
READY := .venv/ready
say = @printf '%s\n'

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-rest lint unit live extended integration properties pythons faults launch docker soak prepare clean

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1@/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-20s %s\n", $$1, $$2 }'

demo: $(READY)  ## run one script on the ollama API against two real vLLM servers on this machine
	@$(BIN)/python -m testbed demo

# Two parts run at the same time: vLLM starts (40 to 60 s) while ruff, mypy and the unit tests run. With TAGGED, each line
# begins with the name of its part. The filter ignores Ctrl-C, so that pytest can print while it stops its servers. It is
# a loop of the shell, because some versions of awk and sed collect their input before they print.
parts = $(MAKE) --no-print-directory --jobs=2 --keep-going TAGGED=yes
TAG = (trap '' INT; while IFS= read -r line || [ -n "$$line" ]; do printf '%s | %s\n' $@ "$$line"; done)
run = @$(if $(TAGGED),set -o pipefail; { $(1); } 2>&1 | $(TAG),$(1))
PYTEST := $(BIN)/python -m pytest
# Hundreds of tests start a Python process; without bytecode each of them compiles the packages again.
unexport PYTHONDONTWRITEBYTECODE
failed = { echo 'Failed: see the lines "make: *** [...]" above.'; exit 1; }

test: $(READY)  ## the tests of every change: style, types, imports, unit, HTTP, main paths on real vLLM servers
	$(say) 'At most 10 minutes on two cores; longer when vLLM is not installed yet.'
	@$(parts) live lint unit || $(failed)
	$(say) 'All tests of "make test" passed. "make test-all" runs the rest too.'

test-all:  ## all tests: `make test` and `make test-rest`
	@$(MAKE) --no-print-directory --keep-going test test-rest

test-rest: $(READY)  ## what `make test` leaves out: faults, vllm-launch, containers, Redis, recorded answers, other Pythons
	$(say) 'At most 50 minutes on two cores.'
	@$(parts) extended faults launch docker properties pythons || $(failed)
	$(say) 'All tests of "make test-rest" passed.'

lint: $(READY)  ## style (ruff), types (mypy), direction of imports (import-linter)
	$(call run,echo 'Style: ruff')
	$(call run,$(BIN)/ruff check --quiet .)
	$(call run,$(BIN)/ruff format --check --quiet . || { echo 'Not formatted: run $(BIN)/ruff format .'; exit 1; })
	$(call run,echo 'Types: mypy')
	$(call run,$(BIN)/mypy --no-error-summary)
	$(call run,echo 'Imports: import-linter')
	$(call run,$(BIN)/lint-imports --no-logo)

unit: $(READY)  ## tests that start no vLLM
	$(call run,$(PYTEST) --quiet --numprocesses=auto --maxprocesses=4 --dist=worksteal tests/unit tests/http)

live: $(READY)  ## the main paths of the client on real vLLM servers
	$(call run,$(PYTEST) -m 'not extended' tests/integration)

extended: $(READY)  ## the other tests on real vLLM servers: recorded answers of Ollama, more models, Redis
	$(call run,$(PYTEST) -m extended tests/integration tests/conformance)

integration: live extended  ## all tests of the client on real vLLM servers

properties: $(READY)  ## the property tests of `make unit` with many more examples
	$(call run,HYPOTHESIS_PROFILE=thorough $(PYTEST) -m hypothesis tests/unit)

pythons: $(READY)  ## `make unit` on every other Python from 3.11 on that is installed
	$(call run,$(BIN)/python -m tests.pythons)

faults: $(READY)  ## every fault between the client and real vLLM servers
	$(call run,$(PYTEST) tests/faults)

launch: $(READY)  ## vllm-launch on real vLLM servers
	$(call run,$(PYTEST) tests/launch)

docker: $(READY)  ## tests on a real Docker engine, with vLLM in containers; skipped where no engine runs
	$(call run,$(PYTEST) tests/docker)

soak: $(READY)  ## ten minutes of full load with random faults, on real vLLM servers
	@$(BIN)/python -m tests.soak

prepare: $(READY)  ## install vLLM's CPU build and make the small models, for `demo` and `test`
	@$(BIN)/python -m testbed prepare

clean:  ## remove .venv, .venvs, .testbed and caches
	$(say) 'Removing .venv, .venvs, .testbed and caches'
	@rm -rf .venv .venvs .testbed .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The file is written last: after an interruption, or a change of pyproject.toml, the environment is completed again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || { \
		echo "Python 3.11 to 3.14 is required; '$(PYTHON)' is not one ($$($(PYTHON) --version 2>&1))."; \
		echo 'Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12'; exit 1; }
	$(say) 'Setting up .venv with $(PYTHON)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
		echo 'This Python has no venv module. On Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.7' \
		&& $(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]' || { \
		echo 'The packages could not be installed. Check the network (or set a mirror for pip and uv), then try again.'; exit 1; }
	@touch $@
