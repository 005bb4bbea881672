# Breakwater: see `make help`.
SHELL := /bin/bash
MODULES := agent daemon deploy e2e hub proto
TAG ?= dev
PLATFORMS ?= linux/amd64,linux/arm64,linux/arm/v7
TOOL := GOWORK=off go tool -modfile=$(CURDIR)/tools/go.mod

.DEFAULT_GOAL := help

.PHONY: help
help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what this machine lacks (as root; Debian packages and npm packages).
	@deploy/setup.sh

.PHONY: build
build: ## Build the programs into bin/.
	@mkdir -p bin
	@# As in the images: without libc. PKCS#11 libraries are C, and have a program of their own.
	@CGO_ENABLED=0 go build -trimpath -tags grpcnotrace -o bin/ ./agent/cmd/... ./daemon/cmd/... ./hub/cmd/... ./deploy/cmd/... ./e2e/cmd/...
	@CGO_ENABLED=1 go build -trimpath -o bin/ ./daemon/cmd/edged-pkcs11

.PHONY: run
run: setup build ## Run a cloud, an edge device and a leaf here (FOR=90s: end by itself).
	@bin/devbox $(if $(FOR),--for $(FOR)) $(if $(KEEP),--keep) $(if $(MANIFEST),--manifest $(MANIFEST))

.PHONY: test
test: setup build cross unit test-device integration-v2 integration-cgroup2 e2e compose-test ## Pass all tests: unit with the race detector, device side, end to end, compose.

.PHONY: unit
unit: ## Unit tests, with the race detector.
	@go test -race -timeout 10m $(addprefix ./,$(addsuffix /...,$(MODULES)))
	@go test -timeout 5m ./hub/internal/upstream

.PHONY: integration
integration: setup ## Tests against a real containerd (as root).
	@deploy/with-containerd.sh go test -tags integration -timeout 10m -count 1 ./daemon/...

.PHONY: integration-v2
integration-v2: setup bin/containerd-v2/containerd ## The same against containerd 2, built from its Go module (as root).
	@CONTAINERD_DIR=bin/containerd-v2 deploy/with-containerd.sh go test -tags integration -timeout 10m -count 1 ./daemon/internal/containerd/... ./daemon/internal/workload/... ./daemon/internal/daemon/...

# A machine is emulated for them, so a container takes ten seconds to start: those only
# on which the version of control groups bears.
CGROUP2 := TestLimitsReachTheContainer|TestSuite/(a_process_is|what_runs_is|start_and_stop)|TestEffectsOnAProcess/(CpuShares|MemorySwap|.*CgroupnsMode)|TestOptionsInsideTheContainer/(Memory|CpuQuota|Devices|Privileged)|TestRatesOfADiskReach|TestMemoryOptionsOf|TestAppArmorConfines

.PHONY: integration-cgroup2
integration-cgroup2: setup build ## Those on limits in a virtual machine whose control groups are of version 2 (as root).
	@bin/testcount -exec "$(CURDIR)/deploy/vm/with-vm.sh $(CURDIR)/deploy/with-containerd.sh" -tags integration -timeout 25m -count 1 -run '$(CGROUP2)' ./daemon/internal/containerd

bin/containerd-v2/containerd: tools/containerd/go.mod
	@mkdir -p $(@D) && cd tools/containerd && GOWORK=off go build -trimpath -o ../../$(@D)/ github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 github.com/containerd/containerd/v2/cmd/ctr

.PHONY: test-device
test-device: setup build ## Device side: containerd, software TPM, software PKCS#11 token (as root).
	@deploy/with-containerd.sh bin/testcount -tags integration,device -timeout 15m -count 1 ./daemon/... ./agent/...

.PHONY: e2e
e2e: setup build ## The built programs, end to end, with containers and the stock SDK (as root).
	@go test -tags e2e -timeout 30m -count 1 -p 1 -v ./e2e/...

.PHONY: compose
compose: build ## Run a cloud and an edge device in Docker containers (docker-compose.yml).
	@bin/images archive dist/compose.tar && docker load -q -i dist/compose.tar
	@if docker compose version >/dev/null 2>&1; then docker compose up; else docker-compose up; fi

.PHONY: compose-test
compose-test: setup build ## Test docker-compose.yml with a Docker engine of its own (as root).
	@deploy/with-docker.sh go test -tags compose -timeout 15m -count 1 -v ./e2e/compose/...

.PHONY: cross
cross: ## Check that what is shipped builds for 32-bit and 64-bit ARM.
	@for arch in arm arm64; do CGO_ENABLED=0 GOARCH=$$arch GOARM=7 go build -tags grpcnotrace ./agent/... ./hub/... ./daemon/... ./deploy/... || exit 1; done

.PHONY: lint
lint: bin/golangci-lint ## Check style, layering and formatting.
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && ../bin/golangci-lint run --config ../.golangci.yml ./...) || exit 1; done

bin/golangci-lint: tools/lint/go.mod
	@cd tools/lint && GOWORK=off go build -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: generate
generate: ## Generate the code of the gRPC services.
	@cd proto && $(TOOL) buf generate

.PHONY: images
images: build ## Build the container images for PLATFORMS into dist/images.
	@bin/images save --version $(TAG) --platform $(PLATFORMS) dist/images

.PHONY: push
push: build ## Build the images and push them: make push REGISTRY=host/path TAG=1.0.
	@test -n "$(REGISTRY)" || { echo "push: REGISTRY is not set, as in: make push REGISTRY=localhost:5000/breakwater" >&2; exit 2; }
	@bin/images push --version $(TAG) --platform $(PLATFORMS) $(REGISTRY)

.PHONY: crash
crash: setup build ## Kill edgehub CYCLES (200) times, as often on a bad disk: nothing may be lost (as root).
	@bin/crash --cycles $(or $(CYCLES),200) $(if $(SEED),--seed $(SEED))

.PHONY: conformance
conformance: setup build ## Prove both hubs with SDKs and clients that are not ours (as root; SEED, ONLY="node mqtt").
	@go test -c -tags conformance -o bin/amqp-conformance ./hub/amqp
	@bin/conformance --engine bin/amqp-conformance $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)")

.PHONY: bench
bench: setup build bin/peers/nats-server ## Measure the programs beside others (as root; ROUNDS=5, ONLY=load,idle).
	@[ -x /usr/sbin/mosquitto ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mosquitto
	@bin/bench $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))

bin/peers/nats-server: tools/peers/go.mod tools/peers/mochi/main.go
	@cd tools/peers && GOWORK=off go build -o ../../bin/peers/ github.com/nats-io/nats-server/v2 ./mochi

.PHONY: bench-parts
bench-parts: build ## Benchmarks of the parts of the message path (ROUNDS=5, BENCH=Telemetry).
	@set -o pipefail; for round in $$(seq $(or $(ROUNDS),5)); do \
	  go test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem -benchtime 300ms -timeout 30m \
	    $$(find hub -name '*bench_test.go' -printf './%h\n' | sort -u) || exit 1; \
	done | bin/bench parts

.PHONY: install
install: build ## Install edged, edgectl and their units (DESTDIR for packages).
	@DESTDIR=$(DESTDIR) deploy/install.sh install

.PHONY: uninstall
uninstall: ## Remove what install has installed; configuration and state stay.
	@DESTDIR=$(DESTDIR) deploy/install.sh uninstall

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s).
	@deploy/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: clean
clean: ## Remove what was built.
	@rm -rf bin dist
