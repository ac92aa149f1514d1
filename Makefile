# The one menu of commands: `make` lists them. CI runs the same ones through .ci/run.

SHELL := /bin/sh
CARGO ?= cargo
# How long each fuzz target runs.
SECONDS ?= 600
PREFIX ?= /usr/local
# Arguments for cargo test, for example T="--test interop bird".
T ?=
# Arguments for bench-field, for example B="--scale 0.1 --runs 1".
B ?=
# Arguments for resilience, for example R="--short --case kill --node routelet".
R ?=
# Arguments for sim, for example S="mesh 200".
S ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

.DEFAULT_GOAL := help
.PHONY: help build release static check fmt test bench bench-field bench-kernel resilience sim fuzz manifests demo packages install clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

build: ## build everything, for development
	$(CARGO) build --workspace --bins --tests

release: ## build the optimized binary: target/dist/routelet
	$(CARGO) build -p routelet --profile dist
	@ls -l $(TARGET)/dist/routelet

static: ## build the optimized binary without shared libraries: target/<host>/dist/routelet
	RUSTFLAGS="$(RUSTFLAGS) -C target-feature=+crt-static" $(CARGO) build -p routelet --profile dist --target $(HOST)
	@if ldd $(TARGET)/$(HOST)/dist/routelet 2>/dev/null | grep '=>'; then \
	  echo 'error: the binary needs the shared libraries above' >&2; exit 1; fi
	@ls -l $(TARGET)/$(HOST)/dist/routelet

check: ## formatting, clippy, the core without tokio, file sizes
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) check -p routelet-bgp --no-default-features
	@if $(CARGO) tree -p routelet-bgp --no-default-features -e normal | grep -w tokio; then \
	  echo 'error: the core must not depend on tokio' >&2; exit 1; fi
	@find proto bgp agent tests -name target -prune -o -name '*.rs' -exec wc -l {} + | \
	  awk '$$2 != "total" && $$1 > 800 {print "error: " $$2 " has " $$1 " lines, 800 is the limit: split it by noun"; bad = 1} END {exit bad}' >&2

fmt: ## format all code
	$(CARGO) fmt --all

test: packages build ## install what is missing (asks first; YES=1 does not), run every test, print the sums
	@ROUTELET_BIN="$(abspath $(TARGET))/debug/routelet" $(TARGET)/debug/suite $(T)

packages: ## install what the tests need: Debian, as root; elsewhere say what is missing
	@YES="$(YES)" scripts/packages.sh

bench: ## criterion benchmarks: compare figures of one run only
	$(CARGO) bench --workspace --benches

bench-field: ## measure against BIRD and FRR (root, minutes); WRITE=1 puts the tables into docs/performance.md
	$(CARGO) build --release -p routelet -p routelet-tests --bins
	$(TARGET)/release/routelet-load field $(if $(WRITE),--write docs/performance.md) $(B)

resilience: ## packets lost while a node's daemon stops, crashes or freezes, beside BIRD and FRR (root, 25 minutes); R="--short" is quicker, WRITE=1 writes docs/resilience.md
	$(CARGO) build -p routelet -p routelet-tests --bins
	$(TARGET)/debug/routelet-resilience $(if $(WRITE),--write docs/resilience.md) $(R)
	@echo 'milliseconds until 1000 routes are in the kernel again, after what others did:'
	$(TARGET)/debug/routelet-load repair

bench-kernel: ## routes into the kernel, and back after a loss, beside BIRD 2 (root, minutes)
	$(CARGO) build --release -p routelet -p routelet-tests --bins
	$(TARGET)/release/routelet-load fib $(B)
	$(TARGET)/release/routelet-load repair $(B)

sim: ## thousands of speakers in virtual time: a mesh of 1000, 5000 clients of reflectors (7 GB, minutes)
	$(CARGO) build --release -p routelet-tests --bin routelet-sim
	$(TARGET)/release/routelet-sim $(S)

fuzz: ## run each fuzz target for SECONDS=600 (needs a nightly toolchain and cargo-fuzz)
	@for target in proto/fuzz/fuzz_targets/*.rs; do \
	  name=$$(basename $$target .rs); echo "fuzz $$name"; \
	  $(CARGO) +nightly fuzz run --fuzz-dir proto/fuzz $$name -- -max_total_time=$(SECONDS) || exit 1; done

manifests: ## put deploy/routelet.yaml together from its parts, the definitions included
	$(CARGO) run -q -p routelet -- crds > deploy/crds.yaml
	@{ echo '# Made by `make manifests` from the other files in this folder: edit those.'; \
	  for part in $$(sed -n 's/^- //p' deploy/kustomization.yaml); do echo '---'; cat deploy/$$part; done; \
	} | awk '!(/^---$$/ && last == "---") {print} {last = $$0}' > deploy/routelet.yaml

demo: ## three nodes, a ToR and a server in network namespaces: sessions, routes, pings
	$(CARGO) build -p routelet
	$(TARGET)/debug/routelet lab

install: release ## install the optimized binary to PREFIX=/usr/local
	install -D -m 755 $(TARGET)/dist/routelet $(DESTDIR)$(PREFIX)/bin/routelet

clean: ## remove what was built
	$(CARGO) clean
