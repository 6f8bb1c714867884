# Programs of this project, their tests and their installation. `make help` lists the targets.

PREFIX  ?= /usr
DESTDIR ?=
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

export CGO_ENABLED ?= 0
LDFLAGS  := -s -w -X github.com/xenvnet/xend/internal/version.Version=$(VERSION)
PROGRAMS := xend xm vn sxp netscript
SCRIPTS  := network-bridge network-vnet vnet-insert vif-bridge vif-setup
# How long each fuzz target runs in `make fuzz`.
FUZZTIME ?= 60s

.PHONY: help build test race lint fuzz demo bench install uninstall deb test-install test-vm clean need-go need-root

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

need-go:
	@scripts/need-go "$(GO)"

need-root:
	@[ "$$(id -u)" = 0 ] || { echo "make $(MAKECMDGOALS): network namespaces need root; the cure: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

build: need-go ## build every program into bin/
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))
	@for s in $(SCRIPTS); do ln -sf netscript bin/$$s; done

test: need-root build ## run all tests, installing what they need
	@scripts/need ip:iproute2 ping:iputils-ping mandoc:mandoc
	$(GO) test $(TESTFLAGS) ./...

race: need-root need-go ## run the tests of the concurrent packages under the race detector
	@scripts/need gcc:gcc ip:iproute2
	CGO_ENABLED=1 $(GO) test -race ./dataplane/... ./internal/... ./xendcompat/...

lint: need-go ## vet, golangci-lint, gofmt, tidy module files
	@scripts/lint

fuzz: need-root need-go ## run every fuzz target for FUZZTIME (60s)
	@scripts/fuzz "$(FUZZTIME)"

demo: need-root build ## two hosts on this machine, a vnet between them, a migration: told as a story
	@scripts/need ip:iproute2 ping:iputils-ping
	$(GO) run ./cmd/demo

bench: need-root build ## our tunnel against kernel VXLAN and the overlays that Debian has
	@scripts/need ip:iproute2 iperf3:iperf3 ethtool:ethtool openvpn:openvpn tincd:tinc vde_switch:vde2
	$(GO) run ./cmd/bench $(BENCHFLAGS)

clean: ## remove what was built
	rm -rf bin build
