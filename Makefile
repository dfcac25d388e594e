# make help tells what there is. Everything happens in .venv; nothing else is touched.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo test check bench kafka kafka-stop clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: .venv/.installed ## make .venv with online_fm and all that its development needs

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "online_fm needs Python 3.11 or newer: make PYTHON=python3.12 install"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install ## the whole loop in this terminal, for about a minute
	@$(BIN)/online-fm demo

test: ## format, lint, types, import contracts, tests: what CI runs
	@PYTHON=$(PYTHON) .ci/run

check: install ## the same without the tests: seconds
	@CHECK_ONLY=1 .ci/run

bench: install ## all benchmarks, with their peers
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

kafka: ## start a real Kafka broker on 127.0.0.1:9092 (needs Java 17 and Maven, no Docker)
	@KAFKA_PORT=9092 tests/kafka/kafka.sh start "$(CURDIR)/.cache/kafka-data"

kafka-stop: ## stop it; its data stays for the next start
	@tests/kafka/kafka.sh stop "$(CURDIR)/.cache/kafka-data"

clean: ## remove .venv and caches
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
