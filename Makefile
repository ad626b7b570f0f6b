# `make` alone lists what there is to do. Every target does its own set-up.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -X main.version=$(VERSION)
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64

# The module of the product, then those of their own, so that what measures and tests it is no dependency of it.
MODULES := . $(patsubst %/go.mod,%,$(wildcard bench/go.mod e2e/go.mod))

ARGS      ?=
TESTFLAGS ?=
FUZZTIME  ?= 30s
SOAKTIME  ?= 10m

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## build and serve the demo; ARGS="--config FILE" serves a file of yours
	@scripts/setup run
	@go build -ldflags '$(LDFLAGS)' -o .build/millrace ./cmd/millrace
	@exec .build/millrace serve $(ARGS)

.PHONY: build
build: ## build .build/millrace
	@scripts/setup run
	go build -trimpath -ldflags '$(LDFLAGS)' -o .build/millrace ./cmd/millrace

# One package at a time: leases of a tenth of a second, and servers of their own, bear no more at once on two cores.
.PHONY: test
test: peers ## run every test: this module's, bench's and e2e's with their real peers
	@scripts/setup test
	@for m in $(MODULES); do \
		echo "test: $$m"; \
		flags='$(TESTFLAGS)'; \
		case $$m in e2e) flags="$$flags -count=1";; esac; \
		go -C $$m test -p 1 -timeout 10m $$flags ./...; \
	done

.PHONY: check
check: ## check format, vet, staticcheck and layers, then run the tests with the race detector
	@scripts/setup check
	@echo "check: gofmt"
	@unformatted=$$(git ls-files -z --cached --others --exclude-standard -- '*.go' | \
		xargs -0 -r sh -c 'for f; do if [ -e "$$f" ]; then echo "$$f"; fi; done' sh | xargs -r gofmt -l); \
	if [ -n "$$unformatted" ]; then \
		echo "not formatted (gofmt -w puts it right):"; echo "$$unformatted"; exit 1; \
	fi
	@for m in $(MODULES); do \
		echo "check: go vet, $$m"; \
		go -C $$m vet ./...; \
		echo "check: staticcheck, $$m"; \
		(cd $$m && go tool -modfile='$(CURDIR)/tools/go.mod' staticcheck ./...); \
	done
	@echo "check: layers"
	@go test -count=1 .
	@echo "check: tests with the race detector"
	@go test -p 1 -race -timeout 15m ./...

.PHONY: bench
bench: ## measure Millrace beside its peers and print one table; ARGS are the bench's own
	@scripts/setup bench
	@cd bench && exec go run . $(ARGS)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	@scripts/setup run
	@FUZZTIME='$(FUZZTIME)' scripts/fuzz

.PHONY: soak
soak: ## look for SOAKTIME (10m) for a history of concurrent calls that the cache made wrong, of one server and of three
	@scripts/setup test
	go test ./internal/cache -run '^TestHistories(OfNodes)?$$' -count=1 -v -timeout 0 -cache.histories=$(SOAKTIME) -cache.nodes=$(SOAKTIME)

.PHONY: replicas
replicas: ## 50,000 reads and writes of callers on three servers, over replicas that are 2 s behind: nobody reads less than what he wrote
	@scripts/setup test
	go test ./internal/app -run '^TestOwnWritesOnThreeServers$$' -count=1 -v -timeout 30m -app.mixed=50000

.PHONY: release
release: ## build static binaries for linux and darwin, amd64 and arm64, with checksums, into dist/
	@scripts/setup run
	@rm -rf dist && mkdir dist
	@for p in $(PLATFORMS); do \
		out=dist/millrace-$${p%/*}-$${p#*/}; \
		echo "release: $$out $(VERSION)"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} \
			go build -trimpath -ldflags '-s -w $(LDFLAGS)' -o $$out ./cmd/millrace; \
	done
	@cd dist && sha256sum millrace-* > SHA256SUMS && cat SHA256SUMS

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf .build dist e2e/node_modules

# The peers that e2e talks to, exactly as its lock file has them.
.PHONY: peers
peers: $(patsubst e2e/package.json,e2e/node_modules/.package-lock.json,$(wildcard e2e/package.json))

e2e/node_modules/.package-lock.json: e2e/package-lock.json
	@scripts/setup test
	npm ci --prefix e2e --no-audit --no-fund
	@touch $@
