# `make run` starts the app, `make test` runs every check, `make demo` writes demo.mp4.
# Each sets up what it needs first, in .venv, and does so again only when a pinned version changes.

# A Python of at least 3.11: `make run PYTHON=/path/to/python` overrides the choice.
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

# Nothing here phones home, and no test needs a model hub.
export GRADIO_ANALYTICS_ENABLED := False
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: run demo test lint setup setup-dev browser clean

run: setup
	$(BIN)/python app.py

demo: setup
	$(BIN)/python -m omniavatar generate --request examples/presenter-1.json --output demo.mp4

# The suite runs in two processes of one thread each, which share two cores without a quarrel. Files
# are taken in their order: by their numbers of tests the longest would come last, and alone.
test: export HF_HUB_OFFLINE := 1
test: export OMP_NUM_THREADS := 1
test: lint browser
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

setup: .venv/.setup
setup-dev: .venv/.setup-dev

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.setup: requirements.txt constraints.txt | .venv/bin/pip
	$(PIP_INSTALL) --requirement requirements.txt
	@touch $@

.venv/.setup-dev: requirements-dev.txt .venv/.setup
	$(PIP_INSTALL) --requirement requirements-dev.txt
	$(BIN)/python -m pip check
	@touch $@

# The tests of the page drive a Chromium that plays H.264: one that is there, Debian's, or
# Playwright's own.
browser: setup-dev
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null && exit 0; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -q && apt-get install -q -y --no-install-recommends chromium && exit 0; \
	fi; \
	$(BIN)/playwright install chromium

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
