# Everything a newcomer types. `make help` lists it.

PYTHON_TOOLS = .venv/bin/python -m
WORKERS ?= 2

.PHONY: help setup demo test interop lint clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-8s %s\n", $$1, $$2 }'

setup: ## make this checkout ready: virtual environment, pinned libraries, programs of the system
	@scripts/setup

demo: setup ## start the local cluster with Bookinfo in it and say how to reach it
	@scripts/demo

test: lint ## lint, then all tests (WORKERS=2 at a time)
	@scripts/setup test
	@$(PYTHON_TOOLS) pytest -q -n $(WORKERS) --dist loadgroup

interop: setup ## test beside Istio's own programs, Jaeger and Zipkin (needs Go, Java, Maven, ten minutes)
	@scripts/setup test
	@scripts/interop
	@PILOTFISH_INTEROP=$(CURDIR)/.tools/interop $(PYTHON_TOOLS) pytest -q -n $(WORKERS) --dist loadgroup tests/interop

lint: setup ## format, style and types
	@$(PYTHON_TOOLS) ruff check
	@$(PYTHON_TOOLS) ruff format --check
	@$(PYTHON_TOOLS) mypy
	@.venv/bin/shellcheck scripts/* .ci/run src/pilotfish/local/images/bin/*

clean: ## stop the local cluster, remove what setup and the tools made
	@if [ -x .venv/bin/pilotfish ]; then .venv/bin/pilotfish down; fi
	rm -rf .venv .tools .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
