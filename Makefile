# Every task of this repository by its name. `make` alone lists them.

LAB := target/release/lab

.PHONY: help setup build images demo test soak cluster cluster-down heddle conformance figures fmt lint lab clean

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
