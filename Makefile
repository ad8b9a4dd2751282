# Every command makes the environment first, if it is missing or out of date.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
INSTALLED := $(VENV)/.installed
CONTENT_INSTALLED := $(VENV)/.installed-content

ARGS ?=
OUT ?= out
BUNDLE ?= $(OUT)/demo/cycle/bundle

export PATH := $(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)
# Ray listens on the loopback address alone and calls nobody.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER := 0
export RAY_USAGE_STATS_ENABLED := 0
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0
export RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S := 0.005
export RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S := 0.02
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export MPLBACKEND := Agg
# Threads that wait for each other do not hold a processor that others need.
export GOMP_SPINCOUNT := 100000

.PHONY: help
help: ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(firstword $(MAKEFILE_LIST)) \
	  | sed -E 's/^([a-z0-9-]+):[^#]*## /\1\t/' | expand -t 16

$(VENV)/bin/python:
	@for python in python3.11 python3 python3.12 python3.13; do \
	  if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' \
	      >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$($$python --version)"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "error: no Python of at least 3.11 with venv and pip was found;" \
	  "install python3.11 (on Debian: python3.11-venv too)" >&2; exit 1

# Every process and every Ray worker imports these packages; without byte code each
# compiles them again (4 s a worker), where PYTHONDONTWRITEBYTECODE is set for ever.
# What this Python cannot compile it cannot import either: no reason to stop.
COMPILE = env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/python -m compileall -q -j 0 \
  -x '/(tests|_internal/py3)' $(VENV)/lib >/dev/null 2>&1 || true

$(INSTALLED): requirements.lock | $(VENV)/bin/python
	@echo "installing requirements.lock (some minutes the first time)"
	@$(VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
	  -r requirements.lock
	@$(COMPILE)
	@touch $@

$(CONTENT_INSTALLED): requirements-content.lock $(INSTALLED)
	@echo "installing requirements-content.lock"
	@$(VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
	  -r requirements.lock -r requirements-content.lock
	@$(COMPILE)
	@touch $@

.PHONY: setup
setup: $(INSTALLED) ## make .venv from requirements.lock

.PHONY: setup-content
setup-content: $(CONTENT_INSTALLED) ## add the encoders of texts and pictures

.PHONY: demo
demo: setup ## the whole walk, then a live service; ARGS=--exit to stop by itself
	@$(BIN)/python -m jobs.demo $(ARGS)

.PHONY: walk
walk: setup ## the same without service and MLflow page, in small: simulate, learn, decide
	$(BIN)/python -m jobs.simulate --recipe smoke --out $(OUT)/walk/market
	$(BIN)/python -m jobs.cycle --recipe smoke \
	  --logs $(OUT)/walk/market --out $(OUT)/walk/cycle
	$(BIN)/python -m jobs.decide --bundle $(OUT)/walk/cycle/bundle \
	  --requests $(OUT)/walk/market/truth/requests.parquet --out $(OUT)/walk/decisions

.PHONY: serve
serve: setup ## serve a bundle on 127.0.0.1:8000 until Ctrl-C; BUNDLE=DIR ARGS="fused=false"
	@export RAY_AUTH_MODE=token \
	  RAY_AUTH_TOKEN=$$(python -c 'import secrets; print(secrets.token_hex(32))'); \
	if [ -z "$${CACS_ADMIN_TOKEN:-}" ]; then \
	  export CACS_ADMIN_TOKEN=$$(python -c 'import secrets; print(secrets.token_hex(16))'); \
	  echo "CACS_ADMIN_TOKEN=$$CACS_ADMIN_TOKEN"; \
	fi; \
	eval "$$(python -m cacs_ray.ingress)"; \
	exec $(BIN)/serve run --address local serve.app:build_app fused=true \
	  bundle=$(abspath $(BUNDLE)) releases=$(dir $(abspath $(BUNDLE))) \
	  decision_log=$(abspath $(OUT))/serve/decisions \
	  click_log=$(abspath $(OUT))/serve/clicks $(ARGS)

.PHONY: bench
bench: setup ## speed and memory beside peers; ARGS="--only preprocessing --rows 500000"
	@$(BIN)/python -m jobs.bench $(ARGS)

.PHONY: promises
promises: setup ## what the service promises; ARGS="--only load --minutes-scale 0.05"
	@$(BIN)/python -m jobs.promises --bundle $(BUNDLE) $(ARGS)

.PHONY: test
test: setup ## all tests; ARGS="-k name" for some
	@$(BIN)/python -m pytest -q $(ARGS)

.PHONY: test-unit
test-unit: setup ## the quick ones: no Ray, no network
	@$(BIN)/python -m pytest -q -m "not ray and not e2e" $(ARGS)

.PHONY: test-ray
test-ray: setup ## those that need a local Ray
	@$(BIN)/python -m pytest -q -m ray $(ARGS)

.PHONY: e2e
e2e: setup ## those that make whole runs
	@$(BIN)/python -m pytest -q -m e2e $(ARGS)

.PHONY: format
format: setup ## rewrite the code in the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lint
lint: setup ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: check
check: lint ## lint, then all tests: what .ci/run does
	@$(MAKE) --no-print-directory test

.PHONY: clean
clean: ## remove caches and written results, keep .venv
	@rm -rf $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
