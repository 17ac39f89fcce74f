# All that is needed: Rust, Python 3 and make. `make` alone says what there is.

PYTHON ?= python3
CARGO ?= cargo
# What is passed on to the benchmark: make bench BENCH="--leads 100000", make bench BENCH="lag --due 500"
BENCH ?=
# And to the torture: make torture TORTURE="--minutes 10 --seed 7"
TORTURE ?=

export PATH := $(CURDIR)/.tools/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run test lint bench torture clean-state

help: ## Says this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Starts it here, with its own nats-server and an example sequence, until Ctrl-C
	@$(PYTHON) scripts/get-tools.py
	@echo "Building Dripline (some minutes the first time), then starting it. Its data is in .dripline."
	@$(CARGO) run --package dripline -- dev

test: ## Runs all tests, against a real nats-server, nats CLI and Mailpit
	@$(PYTHON) scripts/get-tools.py --tests
	$(CARGO) test --workspace --features crash-points

lint: ## Checks the format, and what clippy says
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features crash-points -- -D warnings

bench: ## Measures, one JSON line at the end; BENCH=--help says what
	@$(PYTHON) scripts/get-tools.py
	@echo "Building with optimisations (some minutes the first time), then measuring." >&2
	@$(CARGO) build --release --package dripline --package dripline-stand-in --package dripline-bench
	@"$${CARGO_TARGET_DIR:-target}/release/dripline-bench" $(BENCH)

torture: ## Kills, pauses and lies to it at random moments, then checks what it promised
	@$(PYTHON) scripts/get-tools.py
	@echo "Building with optimisations (some minutes the first time), then torturing."
	@$(CARGO) build --release --package dripline --package dripline-stand-in
	@$(CARGO) run --release --package dripline-torture -- $(TORTURE)

clean-state: ## Forgets every lead and email of `make run`
	rm -rf .dripline outbox
