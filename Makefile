# Programs of this project, their tests and their installation. `make help` lists the targets.

PREFIX  ?= /usr
DESTDIR ?=
GO      ?= go
VERSION ?= $(shell scripts/version)

export CGO_ENABLED ?= 0
LDFLAGS  := -s -w -X github.com/xenvnet/xend/internal/version.Version=$(VERSION)
PROGRAMS := xend xm vn sxp netscript
SCRIPTS  := network-bridge network-vnet network-route network-nat network-dummy vnet-insert vif-bridge vif-route vif-nat vif-setup
# How long each fuzz target runs in `make fuzz`.
FUZZTIME ?= 200000x

.PHONY: book help build bpf bpf-check test test-user recipes race lint fuzz demo lab screenshots bench install uninstall deb test-install test-vm test-xen clean need-go need-root dist test-dist rpm

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

bpf: need-go ## make the committed eBPF objects anew (clang 14)
	@scripts/bpf

bpf-check: need-go ## compare the committed eBPF objects with their sources
	@scripts/bpf --check

test: need-root build ## run all tests, installing what they need
	@scripts/need ip:iproute2 ping:iputils-ping mandoc:mandoc sysctl:procps nft:nftables iptables:iptables tshark:tshark zsh:zsh fish:fish prometheus:prometheus curl:curl openssl:openssl
	$(GO) test $(TESTFLAGS) ./...

test-user: need-go ## run the tests of data plane and service without root; says what is skipped, and why
	@scripts/test-user

# Programs end at once, without waiting a second for races at their end: tests run many. Skipped are simulations in a single
# goroutine, and what kills a daemon at each of many steps: no goroutine of it runs otherwise than in the tests that stay.
race: need-root need-go ## run the tests of the concurrent packages under the race detector
	@scripts/need gcc:gcc ip:iproute2
	GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 $(GO) test -race -skip '^(TestModel|TestFleet|TestKillDuringChange)$$' $(TESTFLAGS) ./dataplane/... ./internal/... ./xendcompat/...

lint: need-go ## vet, golangci-lint, gofmt, tidy module files
	@scripts/lint

fuzz: need-root need-go ## run every fuzz target with FUZZTIME inputs (200000x; or for a time: 60s)
	@scripts/fuzz "$(FUZZTIME)"

demo: need-root build ## two hosts on this machine, a vnet between them, a migration: told as a story
	@scripts/need ip:iproute2 ping:iputils-ping
	$(GO) run ./cmd/demo

lab: need-root build ## examples/lab on this machine: three hosts, two vnets, routers, a trunk; its picture
	@scripts/need ip:iproute2 sysctl:procps
	@if [ -t 0 ]; then stay=-stay; fi; $(GO) run ./cmd/demo -lab examples/lab $$stay

screenshots: need-go ## try the status page in Debian's Chromium, and take the pictures in docs/images
	@scripts/need chromium:chromium
	$(GO) run ./test/screenshots

bench: need-root build ## our tunnel against kernel VXLAN and the overlays that Debian has
	@scripts/need ip:iproute2 iperf3:iperf3 ethtool:ethtool openvpn:openvpn tincd:tinc vde_plug:vdeplug taskset:util-linux
	$(GO) run ./cmd/bench $(BENCHFLAGS)

install: build ## install below DESTDIR and PREFIX (default /usr); overwrites no file of Xen's own
	@scripts/install-tree "$(DESTDIR)" "$(PREFIX)"
	@[ -n "$(DESTDIR)" ] || echo "xend is installed and not started. Start it now and at every boot: systemctl daemon-reload && systemctl enable --now xend (without systemd: xend start). Then: the tour in $(PREFIX)/share/doc/xend/README.md"

uninstall: ## remove what install put there; vnets and configuration stay
	@scripts/install-tree --remove "$(DESTDIR)" "$(PREFIX)"

recipes: need-root build ## run the recipes of docs/recipes, with all that they need
	@scripts/need ip:iproute2 ping:iputils-ping nft:nftables ifup:ifupdown /lib/systemd/systemd-networkd:systemd \
		udevadm:udev /lib/systemd/system/dbus.service:dbus \
		systemd-nspawn:systemd-container lxc-execute:lxc /usr/lib/cni/bridge:containernetworking-plugins \
		/bin/busybox:busybox-static sysctl:procps qemu-system-x86_64:qemu-system-x86 cpio:cpio \
		/etc/libvirt/qemu.conf:libvirt-daemon-system libvirtd:libvirt-daemon virsh:libvirt-clients \
		podman:podman /usr/lib/podman/netavark:netavark curl:curl openssl:openssl tcpdump:tcpdump tshark:tshark
	XEND_RECIPES=all KERNEL=$$(scripts/debian-kernel) DOCKER=$$(scripts/debian-docker) $(GO) test $(TESTFLAGS) -count=1 ./docs/recipes

deb: build ## a Debian package in build/
	@scripts/need dpkg-deb:dpkg gzip:gzip
	@scripts/deb "$(VERSION)"

dist: need-go ## release files in build/dist: tarballs, Debian packages, bills of materials, checksums
	@scripts/need dpkg-deb:dpkg gzip:gzip
	@scripts/dist "$(VERSION)"

rpm: dist ## RPM packages beside them, from packaging/rpm/xend.spec
	@scripts/need rpmbuild:rpm cpio:cpio
	@scripts/rpm "$(VERSION)"

test-dist: rpm ## build them once more, elsewhere: the same bytes
	@scripts/need /bin/busybox:busybox-static unshare:util-linux
	@scripts/test-dist

book: need-go ## the manual as one HTML file, build/book.html
	@scripts/need mandoc:mandoc
	@mkdir -p build
	@cd tools/book && $(GO) run . -top ../.. -version "$(VERSION)" >../../build/book.html.new && mv ../../build/book.html.new ../../build/book.html
	@echo build/book.html

test-install: need-root deb ## install the package into fresh trees of Debian 12 and 13 and take the README's tour there
	@scripts/need debootstrap:debootstrap ip:iproute2 systemd-analyze:systemd setpriv:util-linux
	@scripts/test-install

test-vm: need-root build ## the data plane's and the network scripts' tests on Debian's kernels 6.1 and 6.12, under emulation
	@scripts/need sysctl:procps qemu-system-x86_64:qemu-system-x86 /bin/busybox:busybox-static cpio:cpio criu:criu
	@test/vm/run

test-xen: need-root ## two Xen hosts in an emulator: domains of xl and of xm, a vnet, save and restore; 10 to 20 minutes
	@test/xen/run

clean: ## remove what was built
	rm -rf bin build
