# Everything starts with `make install`; each target says what it does in one line (`make help`).
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: help install demo test test-slow lint types lock bench clean
help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## /\t/' | expand -t 14
install: .venv/installed  ## .venv with everything that this machine can use, and `yuan` in it
.venv/installed: requirements.lock pyproject.toml deploy/install.sh
	@PYTHON="$(PYTHON)" bash deploy/install.sh
demo: install    ## text -> tokenizer -> dataset -> two training ranks -> generated text
	@bash deploy/demo.sh
test: install    ## every test but the slow ones
	@$(BIN)/pytest -m "not slow" -n 2 --dist loadscope
test-slow: install  ## the slow tests: real processes killed, whole runs
	@$(BIN)/pytest -m slow
lint: install    ## style, import rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports
types: install   ## type checks
	@$(BIN)/pyright
lock: install    ## writes requirements.lock anew from what .venv holds
	@bash deploy/lock.sh
bench: install   ## benchmarks, each a ratio against a named peer
	@for file in benchmarks/*.py; do $(BIN)/python $$file; done
clean:           ## removes .venv and caches
	@rm -rf .venv .pytest_cache .ruff_cache build *.egg-info
