# Every target is a thin line over a tool, so that a person and CI run the same thing.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
CARGO_DENY_VERSION := 0.20.2
FEATURES := --all-features
# What the tests print, and what the programs print that they start.
TEST_OUTPUT := target/test-output

.PHONY: help build demo test test-process crash chaos soak rotation fmt fmt-check lint doc deny check acceptance conformance conformance-selftest test-cluster cluster-build bench sim musl musl-build image image-check image-push sbom chart manifests fuzz fuzz-check fuzz-build fuzz-smoke fuzz-corpus clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | column -t -s '|'

build: ## Build the connector and the simulators
	$(CARGO) build --locked $(FEATURES) --bins

demo: build ## Watch the real daemon do its main job against the simulators (DEMO_ARGS="--reject-secret" shows a refusal)
	@target/debug/baton-sim demo $(DEMO_ARGS)

test: ## Run all tests, then search everything that they printed for test secrets
	@rm -rf $(TEST_OUTPUT) && mkdir -p $(TEST_OUTPUT)
	@set -o pipefail; $(CARGO) test --locked $(FEATURES) --lib --test it 2>&1 | tee $(TEST_OUTPUT)/suite.log
	@tests/no_secrets.sh $(TEST_OUTPUT)

test-process: ## Run only the tests that start the real binary
	$(CARGO) test --locked $(FEATURES) --test it process:: recovery::

crash: ## Kill the daemon in the middle of changes, 200 times, and look for a second effect
	$(CARGO) test --locked $(FEATURES) --test it two_hundred_deaths -- --ignored --nocapture

chaos: ## Live whole lives of the daemon under random faults and deaths (SEED=1 RUNS=300; RUN=17 for a single one)
	@BATON_CHAOS_SEED=$(or $(SEED),1) BATON_CHAOS_RUNS=$(or $(RUNS),300) BATON_CHAOS_RUN=$(RUN) BATON_CHAOS_AT_ONCE=$(AT_ONCE) \
	  $(CARGO) test --locked $(FEATURES) --test it many_lives -- --ignored --nocapture

soak: musl-build ## Give the static binary work for MINUTES=20, and a day of work in fast motion; what it holds must not grow
	@BATON_SOAK_MINUTES=$(or $(MINUTES),20) BATON_SOAK_BINARY=$(abspath target/musl/baton-jumpcloud) \
	  $(CARGO) test --locked $(FEATURES) --test it a_daemon_for_a_long_time -- --ignored --nocapture

rotation: ## Rotate both credentials 50 times under a running daemon, by the files that it reads
	$(CARGO) test --locked $(FEATURES) --test it fifty_rotations -- --ignored --nocapture

fmt: ## Format the code
	$(CARGO) fmt

fmt-check: ## Fail when the code is not formatted
	$(CARGO) fmt --check

lint: ## Clippy, warnings are errors
	$(CARGO) clippy --locked $(FEATURES) --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib --bins -- -D warnings

doc: ## Build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked $(FEATURES) --no-deps --document-private-items

deny: ## Check licences, bans and sources of every dependency (installs cargo-deny once)
	@command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked --debug --version $(CARGO_DENY_VERSION)
	$(CARGO) deny --locked $(FEATURES) check bans licenses sources

check: fmt-check lint doc fuzz-check deny test ## Every gate

acceptance: ## Sync a simulated tenant of 5,000 users and compare the file with the simulator's truth (CONNECTOR=path to judge that one)
	$(if $(CONNECTOR),,$(CARGO) build --locked --release --bin baton-jumpcloud)
	$(CARGO) build --locked $(FEATURES) --bin baton-sim
	tests/acceptance.sh $(or $(CONNECTOR),target/release/baton-jumpcloud) target/debug/baton-sim

conformance: ## Let the official Go SDK judge files, messages and descriptors (skipped without Go)
	tests/conformance/run.sh

conformance-selftest: ## Break one thing after the other and want conformance to find it
	tests/conformance/run.sh -selftest

test-cluster: ## Let a real Kubernetes API server judge manifests, permissions and the daemon in a cluster (needs Go)
	tests/cluster/run.sh

cluster-build: ## Build the API server, etcd, kubectl and helm of the cluster tests from the Go module proxy
	tests/cluster/run.sh build

bench: ## Measure speed and memory, save the figures under benches/results
	$(CARGO) build --locked --release $(FEATURES) --bins
	$(CARGO) bench --locked $(FEATURES) --bench daemon

sim: build ## Start both simulators for work by hand (credentials and the CA land in ./sim-credentials)
	@mkdir -p sim-credentials && printf 'simulated-api-key' > sim-credentials/api-key
	@trap 'kill 0' EXIT; \
	target/debug/baton-sim jumpcloud --listen 127.0.0.1:8090 --api-key "$$(cat sim-credentials/api-key)" & \
	target/debug/baton-sim conductorone --listen 127.0.0.1:8443 --admin 127.0.0.1:8444 \
	  --credentials-dir sim-credentials --upload-dir sim-credentials --full-sync > /dev/null & \
	echo 'One full sync is queued. In another shell:'; \
	echo '  target/debug/baton-jumpcloud --client-id-file sim-credentials/client-id --client-secret-file sim-credentials/client-secret --ca-file sim-credentials/ca.pem --api-key-file sim-credentials/api-key --base-url http://127.0.0.1:8090'; \
	echo 'Queue another sync:'; \
	echo "  curl -d '{\"kind\": \"sync_full\"}' -H 'content-type: application/json' http://127.0.0.1:8444/_sim/tasks"; \
	wait

# What labels and attestations say; the date of the commit makes the same source the same image.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
REVISION = $(shell git rev-parse HEAD)
SOURCE = $(shell git config --get remote.origin.url || echo unknown)
IMAGE_ARGS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --build-arg SOURCE=$(SOURCE) \
  --build-arg SOURCE_DATE_EPOCH=$(shell git log -1 --format=%ct)
IMAGE_PYTHON = target/image/venv/bin/python

musl-build: $(IMAGE_PYTHON) ## Build the static binary of the image without docker
	tests/image/musl.sh build $(abspath $(IMAGE_PYTHON))

musl: musl-build ## Build the static binary of the image without docker, and run it against the simulators
	$(CARGO) build --locked $(FEATURES) --bin baton-sim
	tests/image/musl.sh check $(or $(CARGO_TARGET_DIR),target)/debug/baton-sim

image-check: $(IMAGE_PYTHON) ## Check the Dockerfile and the files that it takes, without docker
	$(IMAGE_PYTHON) -m pytest -q -p no:cacheprovider tests/image

$(IMAGE_PYTHON): tests/image/requirements.txt
	@python3 -m venv target/image/venv
	@target/image/venv/bin/pip install -q -r $<
	@touch $@

image: ## Build the container image of this machine's platform with docker
	docker buildx build --load $(IMAGE_ARGS) -t baton-jumpcloud:v$(VERSION) .

image-push: ## Build both platforms, with SBOM and provenance, and push them to IMAGE (see RELEASING.md)
	@test -n "$(IMAGE)" || { echo "IMAGE is empty: give the registry and the name, without a tag" >&2; exit 1; }
	docker buildx build --platform linux/amd64,linux/arm64 $(IMAGE_ARGS) --sbom=true --provenance=mode=max \
	  --output type=image,name=$(IMAGE):v$(VERSION),push=true,rewrite-timestamp=true --metadata-file target/image.json .

sbom: ## List what the program is made of (CycloneDX, target/sbom/), and compare it with the lock file
	tests/image/sbom.sh

CHART_VENV := target/chart-venv
$(CHART_VENV)/ready: tests/chart/requirements.txt
	python3 -m venv $(CHART_VENV)
	$(CHART_VENV)/bin/pip install --quiet --require-hashes --only-binary :all: -r $<
	touch $@

chart: $(CHART_VENV)/ready ## Check the Helm chart and the manifests, without a cluster (with Go, by the usual tools too)
	$(CHART_VENV)/bin/python tests/chart/tools.py
	tests/promql/run.sh
	$(CHART_VENV)/bin/python -m pytest -p no:cacheprovider tests/chart

manifests: $(CHART_VENV)/ready ## Render deploy/, and what else is made from the chart
	$(CHART_VENV)/bin/python tests/chart/manifests.py
	$(CHART_VENV)/bin/python tests/chart/tools.py docs

CARGO_FUZZ_VERSION := 0.13.2
FUZZ_TARGETS := answers c1z_database c1z_envelope config_file credentials encryption jumpcloud_json jumpcloud_sync page_token task
# Without a sanitizer the stable compiler is enough; what is looked for are panics, hangs, memory and broken properties.
FUZZ := $(CARGO) fuzz
FUZZ_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target)/fuzz)
SECONDS ?= 600

fuzz: fuzz-build ## Let libFuzzer look for input that breaks a property (TARGET=name for one target, SECONDS=600 each)
	tests/fuzz.sh $(FUZZ_TARGET_DIR) $(SECONDS) $(or $(TARGET),$(FUZZ_TARGETS))

fuzz-check: ## See whether the libFuzzer targets still compile, with the dependencies that doc and lint have checked
	CARGO_TARGET_DIR=$(abspath $(or $(CARGO_TARGET_DIR),target)) $(CARGO) check --locked --manifest-path fuzz/Cargo.toml

# cargo-fuzz takes no --locked; a lock file that does not fit ends it before.
fuzz-build: ## Build the libFuzzer targets (installs cargo-fuzz once)
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked --debug --version $(CARGO_FUZZ_VERSION)
	$(CARGO) fetch --locked --manifest-path fuzz/Cargo.toml
	CARGO_TARGET_DIR=$(FUZZ_TARGET_DIR) $(FUZZ) build --sanitizer none --codegen-units 16

fuzz-smoke: ## Run every fuzz target over its corpus and fixed changes of it, without libFuzzer
	$(CARGO) test --locked $(FEATURES) --test it fuzz:: -- --nocapture

fuzz-corpus: ## Write the part of the fuzz corpus that is made from real encodings
	$(CARGO) test --locked $(FEATURES) --test it write_the_corpus -- --ignored

clean: ## Remove what the build made
	$(CARGO) clean
	rm -rf sim-credentials bench-work
