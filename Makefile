# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0

# The version has its one home in backend/VERSION, which the plugin embeds.

GO ?= go
# MODULES are the modules beside the main one that have tests: each brings what the plugin is to do without.
MODULES := deploy scripts/release scripts/vulnerabilities scripts/picture
# RACE=-race runs the tests with the race detector; PLUGIN_RACE=1 has it in the plugin process of the end-to-end tests too.
# Both need a C compiler.
RACE ?=

# FUZZTIME is for how long each fuzz target runs.
FUZZTIME ?= 30s
# LIVES are flags of the model and the matrix, such as -rapid.checks=10000 or -rapid.seed=7.
LIVES ?=
# SOAK are flags of the soak, such as '-duration 1m -seed 7'; MUTANTS those of the mutation run, such as '-n 100'.
SOAK ?=
MUTANTS ?=
# LINTFLAGS are flags of golangci-lint, such as --fix, which formats the code and mends what it can.
LINTFLAGS ?=
# BENCH are flags of the benchmark, such as '-storage raft -clients 16 -duration 10s'.
BENCH ?=

# VULNERABILITIES are flags of the search for known ones, such as -release or '-db https://vuln.example.com'.
VULNERABILITIES ?=
# IMAGE is the repository that release-image pushes to, such as registry.example.com/vault-plugin-secrets-ncentral.
IMAGE ?=

.PHONY: help build server test lives fuzz soak mutants bench picture lint vulnerabilities release-snapshot release-image demo dev clean

help:
	@echo 'make build   the plugin and the N-central simulator, into bin/'
	@echo 'make demo    see the engine at work: server, simulator, and the commands of a user'
	@echo 'make dev     the same, left running for you to try, until Ctrl-C'
	@echo 'make test    all tests, those against a real server too (RACE=-race PLUGIN_RACE=1: with the race detector)'
	@echo 'make lives   random histories of a mount and the matrix of faults, in full (LIVES=-rapid.checks=10000: more histories)'
	@echo 'make fuzz    every fuzz target for FUZZTIME, 30s unless given'
	@echo 'make soak    ten minutes of load, faults and kills, at the end of which every promise must hold'
	@echo "             (SOAK='-duration 1m -seed 7': shorter, and the same again)"
	@echo 'make mutants change one thing at a time in the code and see whether a test notices; takes hours, and goes on where it'
	@echo "             was broken off (MUTANTS='-n 100': a sample)"
	@echo "make bench   two minutes of reads on a real server, beside a plugin that answers a constant: a table, and"
	@echo "             docs/performance.json and .svg (BENCH='-duration 5s': longer, '-output /tmp': written elsewhere)"
	@echo 'make picture draw docs/flow.svg anew from docs/flow.d2'
	@echo 'make lint    golangci-lint, as .golangci.yml has it, and links and commands of the documents; builds golangci-lint'
	@echo '             first, once, which takes a minute or two'
	@echo 'make vulnerabilities'
	@echo '             govulncheck: known vulnerabilities in what the plugin calls. Those of the standard library, which a newer Go'
	@echo '             mends, fail with VULNERABILITIES=-release alone'
	@echo 'make release-snapshot'
	@echo '             all that a release has, into dist/: archives, checksums, SBOMs and the OCI image. With nothing cached it'
	@echo '             builds GoReleaser first, and takes ten minutes on two cores; later one'
	@echo 'make release-image IMAGE=registry.example.com/vault-plugin-secrets-ncentral'
	@echo '             push the OCI image of the release that is in dist/'
	@echo 'make server  find or build the Vault or OpenBao server that demo and tests run, and print its path'
	@echo 'make clean   remove bin/ and dist/ (the built server stays in your cache directory)'
	@echo
	@echo 'VAULT_SERVER_BINARY names the vault or bao to use. Without it: vault, else bao on the PATH, else Vault is built from'
	@echo 'its Go module, once, which takes minutes.'

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...
	@echo "Built bin/vault-plugin-secrets-ncentral $$(cat backend/VERSION)"

server:
	@$(GO) build -o bin/find-server ./scripts/find-server
	@bin/find-server

# First the server, since go test would show nothing of a build that takes minutes. The end-to-end tests run alone, for
# they hold times to account, and never from go's cache, for it knows nothing of the server and the plugin binary. Nor
# does it know of the pages that the tests in deploy read, for they are in another module. In their own directory they say
# at the end which examples were not run, since a program that these need is not here.
test: server
	$(GO) test $(RACE) -timeout 60m $$($(GO) list ./... | grep -v /e2e)
	for module in $(MODULES); do $(GO) -C $$module test $(RACE) -count=1 ./... || exit 1; done
	$(GO) -C e2e test $(RACE) -timeout 60m -count=1

# The race detector makes the model and the matrix several times slower, so they try less with it than here.
lives:
	$(GO) test -timeout 60m -count=1 -v -run 'TestEveryHistory|TestMatrix' ./backend $(LIVES)

fuzz:
	@scripts/fuzz.sh $(FUZZTIME)

soak: server
	@$(GO) build -o bin/soak ./scripts/soak
	@bin/soak $(SOAK)

mutants:
	@$(GO) build -o bin/mutants ./scripts/mutants
	@bin/mutants $(MUTANTS)

# golangci-lint brings hundreds of modules, so it stands in a module of its own.
lint:
	$(GO) test -count=1 ./docs
	$(GO) tool -modfile=scripts/lint/go.mod golangci-lint run $(LINTFLAGS)
	for module in $(MODULES); do \
		(cd $$module && $(GO) tool -modfile=$(CURDIR)/scripts/lint/go.mod golangci-lint run $(LINTFLAGS)) || exit 1; \
	done

vulnerabilities:
	@$(GO) -C scripts/vulnerabilities run . $(VULNERABILITIES)

# A release is made in the same way, but with goreleaser release alone: see CONTRIBUTING.md. GoReleaser too brings hundreds
# of modules.
release-snapshot:
	$(GO) tool -modfile=scripts/release/go.mod goreleaser release --snapshot --clean
	$(GO) -C scripts/release run . $(CURDIR)/dist
	RELEASE_DIST=$(CURDIR)/dist $(GO) -C scripts/release test -count=1 -run TestARelease .

release-image:
	@test -n "$(IMAGE)" || { echo 'IMAGE names no repository to push to: see make help' >&2; exit 1; }
	$(GO) -C scripts/release run . -push $(IMAGE) $(CURDIR)/dist

bench: server
	@$(GO) build -o bin/benchmark ./scripts/benchmark
	@bin/benchmark -output docs $(BENCH)

# What draws it brings many modules, so it stands in a module of its own.
picture:
	$(GO) -C scripts/picture run .

# The demo is started without go run between it and the signals.
demo:
	@$(GO) build -o bin/demo ./scripts/demo
	@bin/demo

dev:
	@$(GO) build -o bin/demo ./scripts/demo
	@bin/demo -keep

clean:
	rm -rf bin dist
