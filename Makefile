# Two commands for a newcomer: make demo, make test. The rest explains itself.

GO    ?= go
TOOL   = $(GO) tool -modfile=tools/go.mod
SUDO  := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
FUZZTIME ?= 60s
WORLDS   ?= 30000

export CGO_ENABLED = 0
export GOFLAGS = -trimpath

.PHONY: build demo test test-race test-system test-booted soak bench bench-field bench-nat bench-birthday bench-relay packages test-packages generate lint deps cross cross-arm64 clean

build: ## both programs, into bin/
	$(GO) build -o bin/warren ./cmd/agent
	$(GO) build -o bin/warren-coordinator ./cmd/coordinator

demo: build ## two devices behind NATs meet, in network namespaces; KEEP=1 leaves them up
	$(GO) build -o bin/demo ./internal/lab/demo
	./bin/demo -bin bin $(if $(KEEP),-keep)

deps: ## programs that the tests look at Warren with
	@missing=""; for p in keepalived:keepalived tshark:tshark wg:wireguard-tools miniupnpd:miniupnpd-nftables nginx:nginx nft:nftables iptables-legacy:iptables; do \
		PATH=$$PATH:/usr/sbin command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; \
		$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
	@command -v promtool >/dev/null || { echo "installing promtool, of the package prometheus, which itself would start a server"; set -e; \
		dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; $(SUDO) apt-get update -qq; cd $$dir; apt-get download -qq prometheus >/dev/null 2>&1; \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xf - ./usr/bin/promtool; $(SUDO) install -m 755 usr/bin/promtool /usr/local/bin/promtool; }

cross: ## macOS and Windows: compiled and vetted, tests too, as far as another system can
	GOOS=darwin $(GO) build ./... && GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) build ./... && GOOS=windows $(GO) vet ./...

cross-arm64: ## the same for their other processor
	GOOS=darwin GOARCH=arm64 $(GO) build ./... && GOOS=darwin GOARCH=arm64 $(GO) vet ./...
	GOOS=windows GOARCH=arm64 $(GO) build ./... && GOOS=windows GOARCH=arm64 $(GO) vet ./...

lint: ## gofmt, vet, staticcheck, generated code
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v 'proto/warrenv1/')); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags booted,packages,pages ./internal/lab/booted ./internal/lab/pages ./packaging/build
	$(TOOL) staticcheck ./...

test: deps build lint cross ## everything that is quick; prints how many tests passed
	WARREN_BIN=$(CURDIR)/bin $(GO) run ./internal/testcount -- -count=1 ./...

test-race: deps build ## the same under the race detector, programs too, which needs a C compiler; without tests of the lab that give programs a second or two, for which they are too slow then
	CGO_ENABLED=1 $(GO) build -race -o bin/race/warren ./cmd/agent
	CGO_ENABLED=1 $(GO) build -race -o bin/race/warren-coordinator ./cmd/coordinator
	WARREN_BIN=$(CURDIR)/bin/race CGO_ENABLED=1 GORACE=halt_on_error=1 $(GO) run ./internal/testcount -- -race -count=1 -timeout=60m -skip '^(TestRemovedWithinASecond|TestBehindNginx|TestNearestRelay|TestRelayDies)$$' ./...

test-system: test-booted cross-arm64 deps build ## longer: all of test-booted, the lab's tests five times, with more kills of programs; once 100 kills under the kill switch, and 1 GiB each way between sites; and programs of older commits beside those of today; and the commands of docs/install.md and docs/operations.md
	WARREN_BIN=$(CURDIR)/bin WARREN_KILLS=40 $(GO) run ./internal/testcount -- -count=5 -timeout=60m ./internal/lab/...
	WARREN_BIN=$(CURDIR)/bin WARREN_LEAK_KILLS=100 WARREN_SITE_BYTES=1073741824 \
		$(GO) run ./internal/testcount -- -count=1 -timeout=60m -run '^(TestKillSwitchHolds|TestTwoDataCenters)$$' ./internal/lab/networks
	WARREN_BIN=$(CURDIR)/bin $(GO) run ./internal/testcount -- -count=1 -timeout=30m -tags skew ./internal/lab/skew
	WARREN_BIN=$(CURDIR)/bin $(GO) run ./internal/testcount -- -count=1 -tags pages ./internal/lab/pages

test-booted: deps build bin/nfpm ## packages and images in Debians with systemd and with OpenRC, which debootstrap makes first; RUN=NAME for one test. About 10 minutes
	@missing=""; for p in debootstrap:debootstrap systemd-nspawn:systemd-container; do PATH=$$PATH:/usr/sbin command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
	$(GO) run ./packaging/build -only deb,rpm,apk,oci -arch amd64 -nfpm bin/nfpm -out bin/booted/now
	$(GO) run ./packaging/build -only deb,rpm,apk -arch amd64 -nfpm bin/nfpm -out bin/booted/next -version v900.0.0
	$(GO) run ./packaging/build -only deb -arch amd64 -nfpm bin/nfpm -out bin/booted/newer -version v901.0.0 -newer
	WARREN_BIN=$(CURDIR)/bin $(GO) test -v -count=1 -timeout=60m -tags booted -run '$(RUN)' ./internal/lab/booted \
		-args -now $(CURDIR)/bin/booted/now -next $(CURDIR)/bin/booted/next -newer $(CURDIR)/bin/booted/newer

soak: ## longer: every fuzz test for FUZZTIME, and WORLDS random policies with their networks
	@set -e; for pkg in $$($(GO) list ./...); do \
		dir=$$($(GO) list -f '{{.Dir}}' $$pkg); \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go 2>/dev/null | cut -c6-); do \
			echo "== $$pkg $$f"; $(GO) test $$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x; done; done
	$(GO) test ./coord/policy/compile -count=1 -timeout 120m -worlds $(WORLDS)

bench: deps build ## figures, beside bare links, bare routing and stock wireguard-go. About 20 minutes
	$(GO) build -o bin/wireguard-go golang.zx2c4.com/wireguard
	$(GO) build -o bin/bench ./internal/lab/bench
	./bin/bench -bin bin

bench-relay: build ## the relay beside bare forwarders, alone and with the lab's tunnels over both transports; what idle devices take
	$(GO) test ./nat/relay -run '^$$' -bench Forwarders -count 3
	$(GO) test ./nat/relay -run '^$$' -bench IdleDevices -benchtime 1x
	$(GO) build -o bin/bench ./internal/lab/bench
	./bin/bench -bin bin -only relayed

bench-nat: build ## every pair of kinds of NAT; puts the table into docs/nat.md. About 20 minutes
	$(GO) build -o bin/bench ./internal/lab/bench
	./bin/bench -bin bin -only nat -doc docs/nat.md

bench-birthday: build ## easy against hard NATs, which meet by trying ports; puts the table into docs/nat.md. About 2 minutes
	$(GO) build -o bin/bench ./internal/lab/bench
	./bin/bench -bin bin -only birthday -runs 50 -doc docs/nat.md

bench-field: deps build ## beside stock wireguard-go, Tailscale with Headscale, and Nebula; puts the tables into docs/benchmarks.md. About 45 minutes
	$(GO) build -o bin/wireguard-go golang.zx2c4.com/wireguard
	@set -e; for m in nebula headscale tailscale; do echo "building $$m"; \
		$(GO) build -C tools/field/$$m -o ../../../bin/field/ tool; done
	$(GO) build -o bin/benchfield ./internal/lab/benchfield
	rm -f bin/field.samples
	./bin/benchfield -bin bin -samples bin/field.samples -doc docs/benchmarks.md

bin/nfpm: tools/nfpm/go.mod
	$(GO) build -C tools/nfpm -o ../../bin/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm

packages: bin/nfpm ## deb, rpm, apk, tar archives, container images, bills of materials and checksums, into dist/; the same commit, the same bytes
	$(GO) run ./packaging/build -out dist -nfpm bin/nfpm

test-packages: packages ## makes them a second time elsewhere and compares, and looks at them with Debian's and rpm's own tools. About 10 minutes
	@missing=""; for p in lintian:lintian rpm:rpm qemu-aarch64-static:qemu-user-static; do command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; fi
	@set -e; again=$$(mktemp -d); trap 'rm -rf "$$again"' EXIT; umask 077; git clone -q . $$again/tree; cd $$again/tree; \
	$(GO) run ./packaging/build -out $$again/dist -nfpm $(CURDIR)/bin/nfpm; cd $(CURDIR); \
	$(GO) test -count=1 -tags packages ./packaging/build -args -dist $(CURDIR)/dist -again $$again/dist

generate: ## code from proto/warren/v1/*.proto, by pinned tools
	$(GO) build -modfile=tools/go.mod -o bin/buf github.com/bufbuild/buf/cmd/buf
	cd proto && ../bin/buf lint && ../bin/buf generate

clean:
	rm -rf bin dist
