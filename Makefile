# Everything starts with `make install`; each target says what it does in one line (`make help`).
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: help install demo test test-slow lint types protos protos-check protos-lint lock audit bench clean image compose-secrets compose-up compose-down
help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## /\t/' | expand -t 18
install: .venv/installed  ## .venv with everything that this machine can use, and `yuan` in it
.venv/installed: requirements.lock pyproject.toml deploy/install.sh
	@PYTHON="$(PYTHON)" bash deploy/install.sh
demo: install    ## text -> tokenizer -> dataset -> two training ranks -> generated text
	@bash deploy/demo.sh
test: install    ## every test but the slow ones
	@# A worker that crashes ends the run: with loadscope the rest would wait for it without end.
	@$(BIN)/pytest -m "not slow" -n 2 --dist loadscope --max-worker-restart 0
test-slow: install  ## the slow tests: real processes killed, whole runs
	@$(BIN)/pytest -m slow
lint: install    ## style, import rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports
types: install   ## type checks
	@$(BIN)/pyright
protos: install  ## libs/yuan_rpc anew from protos/
	@bash deploy/protos.sh
protos-check: install  ## whether libs/yuan_rpc is what protos/ means
	@bash deploy/protos.sh check
protos-lint:     ## style of protos/ (buf, where npm is there)
	@bash deploy/protos.sh lint
lock: install    ## writes requirements.lock anew from what .venv holds
	@bash deploy/lock.sh
audit: install   ## known vulnerabilities of what requirements.lock pins (pip-audit, OSV)
	@$(BIN)/python deploy/audit.py
bench: install   ## benchmarks, each a ratio against a named peer
	@for file in benchmarks/*.py; do $(BIN)/python $$file; done
image:           ## yuan-stack: one image with everything (BUILD_OPTIONS: more for docker build)
	@docker build -f deploy/docker/Dockerfile --target all -t yuan-stack $(BUILD_OPTIONS) .
compose-secrets: ## deploy/docker/secrets/: token and database password for docker-compose.yml
	@deploy/docker/compose.sh secrets
compose-up:      ## the stack of docker-compose.yml: images, containers, healthy
	@deploy/docker/compose.sh up
compose-down:    ## ends it; its volumes stay
	@deploy/docker/compose.sh down
clean:           ## removes .venv and caches
	@rm -rf .venv .pytest_cache .ruff_cache build *.egg-info
