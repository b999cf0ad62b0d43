# Every task of this repository by its name. `make` alone lists them.

LAB := target/release/lab

.PHONY: help setup build images demo test soak cluster cluster-down heddle conformance figures bench bench-scale bench-micro profile fmt lint lab clean

help: ## List the tasks
	@echo "Heddle: a service mesh whose only routing API is the Gateway API."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what the demo and the tests need (Debian, as root)
	@tests/setup.sh test

build: ## Build the release programs
	cargo build --release --locked

images: ## Build the three images; PUSH=registry.example.com/mesh pushes them
	@images/build.sh $(if $(PUSH),--push $(PUSH))

demo: ## Watch unmodified programs talk through the mesh, without a cluster
	@tests/setup.sh demo
	cargo build --release --locked
	@tests/demo/demo.sh

test: ## Set up and run every check and test
	@tests/run

soak: build ## Renew certificates that live 30 s under load for 10 minutes (HEDDLE_SOAK_SECONDS): nothing may fail
	HEDDLE_LAB="$(CURDIR)/$(LAB)" HEDDLE_SOAK_SECONDS=$${HEDDLE_SOAK_SECONDS:-600} \
		cargo test --locked -p e2e --test lifecycle -- nothing_fails_while_certificates_are_renewed

cluster: ## Bring up a Kubernetes of one node, or check the one of KUBECONFIG
	@tests/cluster/up.sh

cluster-down: ## End that Kubernetes and remove all of it
	@tests/cluster/down.sh

heddle: cluster build ## Install Heddle, as it is here, in that Kubernetes
	@tests/cluster/heddle.sh

conformance: heddle ## Run the Gateway API's conformance suite for meshes in it; the report goes to docs/conformance
	@tests/cluster/conformance.sh

figures: heddle ## Measure there how soon pods are ready and routes take effect, and what the control plane costs
	cargo run --locked --release -p cluster --bin figures

bench: ## Measure Heddle beside Envoy and the kernel's own price, in 20 minutes, into docs/benchmarks; QUICK=1 takes 4
	@tests/setup.sh bench
	@tests/bench/envoy/install.sh
	cargo build --release --locked
	target/release/bench $(if $(QUICK),--quick)

bench-scale: ## Measure the control plane with 10,000 Services and 1,000 sidecars, and one sidecar there, in 5 minutes; QUICK=1 takes 2
	@tests/setup.sh bench
	cargo build --release --locked
	target/release/scale $(if $(QUICK),--quick)

bench-micro: ## Measure our own code alone: matching, balancing, tables, the pieces of a request's way; NAMES=decide only some
	cargo bench --profile release --locked -p mesh -- "$(NAMES)"
	HEDDLE_BENCH="$(NAMES)" cargo test --release --locked -p proxy -- \
		--test-threads=1 --nocapture the_pieces_of_a_requests_way few_allocations

profile: ## Count anew where a proxy spends its time, for the compiler, in 3 minutes once built
	@tests/setup.sh test
	@tests/setup.sh bench
	@tests/bench/profile.sh

fmt: ## Format the sources
	cargo fmt --all

lint: ## Format check, clippy and the repository's own rules
	@tests/run fmt clippy policy

lab: build ## Build the lab and say where it is
	@echo "$(CURDIR)/$(LAB)"

clean: ## End every world of the lab that is still up
	@for world in $(notdir $(wildcard /run/heddle-lab/*)); do \
		if [ -x $(LAB) ]; then $(LAB) down --world "$$world"; else echo "world $$world is up; make build, then make clean"; fi; \
	done
