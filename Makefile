# `make demo` and `make test` are all that a fresh machine needs: they make .venv and, for the parts that ask real vLLM
# servers, .testbed. `make help` lists the rest.

PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.14,\
	$(shell $(python) -c 'import sys; print("$(python)" if (3, 11) <= sys.version_info < (3, 15) else "")' 2>/dev/null)) python3)
BIN := .venv/bin
READY := .venv/ready
say = @printf '%s\n'

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit integration faults launch docker soak prepare clean

help:  ## list these commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1@/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-20s %s\n", $$1, $$2 }'

demo: $(READY)  ## one script on the ollama API, answered by two real vLLM servers on this machine
	@$(BIN)/python -m testbed demo

# Two parts run at a time, since one small vLLM server keeps one core busy; what a part prints comes when it ends.
PARTS := lint unit integration faults launch docker
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--jobs=2 --keep-going --output-sync=target)

test: $(READY)  ## everything: style, types, unit and HTTP tests, tests on real vLLM servers and in containers
	$(say) 'Running $(PARTS): 20 to 25 minutes on two cores, more where vLLM is yet to be installed'
	@$(MAKE) --no-print-directory $(TOGETHER) $(PARTS)
	$(say) 'All tests passed.'

lint: $(READY)  ## style (ruff) and types (mypy)
	$(say) 'Style: ruff'
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo 'Not formatted: run $(BIN)/ruff format .'; exit 1; }
	$(say) 'Types: mypy'
	@$(BIN)/mypy --no-error-summary

unit: $(READY)  ## tests that start no vLLM: minutes
	$(say) 'Tests: unit and HTTP'
	@$(BIN)/pytest --quiet tests/unit tests/http

integration: $(READY)  ## the client on real vLLM servers, against what a real Ollama answered
	$(say) 'Tests: real vLLM servers'
	@$(BIN)/pytest --quiet tests/integration tests/conformance

faults: $(READY)  ## every fault between the client and real vLLM servers
	$(say) 'Tests: faults'
	@$(BIN)/pytest --quiet tests/faults

launch: $(READY)  ## vllm-launch on real vLLM servers
	$(say) 'Tests: vllm-launch'
	@$(BIN)/pytest --quiet tests/launch

docker: $(READY)  ## tests on a real Docker engine, with vLLM in containers; skipped where none answers
	$(say) 'Tests: containers'
	@$(BIN)/pytest --quiet tests/docker

soak: $(READY)  ## ten minutes of full load with random faults, on real vLLM servers
	@$(BIN)/python -m tests.soak

prepare: $(READY)  ## install vLLM's CPU build and make the small models, for demo and integration
	@$(BIN)/python -m testbed prepare

clean:  ## remove .venv, .testbed and caches
	$(say) 'Removing .venv, .testbed and caches'
	@rm -rf .venv .testbed .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The file is written last: after an interruption, or a change of pyproject.toml, the environment is completed again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || { \
		echo "Python 3.11 to 3.14 is needed; '$(PYTHON)' is not one ($$($(PYTHON) --version 2>&1))."; \
		echo 'Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12'; exit 1; }
	$(say) 'Setting up .venv with $(PYTHON)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
		echo 'That Python has no venv module. On Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.7' \
		&& $(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]' || { \
		echo 'The packages could not be installed. Check the network (or set a mirror for pip and uv), then try again.'; exit 1; }
	@touch $@
