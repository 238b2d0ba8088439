# The commands of the house. Everything needs Go and nothing else; `lint` and `soak` too.

export CGO_ENABLED = 0

SEEDS    ?= 1000
IPSEEDS  ?= 10000
FUZZTIME ?= 30s
BENCH    ?= .
MEASURE  ?= ipam mesh odp sleeve fastdp

.PHONY: demo test soak bench lint

demo: ## two hosts in namespaces of this machine, one encrypted Ethernet between their containers
	go run ./examples/weaver demo

test: ## all tests; those that need namespaces make them, as root or in a user namespace, and another kernel where they need one
	-@go run ./internal/lab/setup
	go test ./...

soak: ## the long simulations, SEEDS of each and IPSEEDS of ipam's, then every fuzz target for FUZZTIME
	OVERWEAVE_SEEDS=$(SEEDS) go test -count=1 -timeout=24h -run 'Converge|Simulation|Limit$$' ./dns ./mesh
	go test -count=1 -timeout=24h -run 'TestSimulation' ./ipam -args -seeds=$(IPSEEDS)
	go test -count=1 -timeout=24h -run 'TestCrash' ./ipam -args -crashes=200
	@set -e; for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

bench: ## Go benchmarks, then the measurements of whole packages that MEASURE names; it takes long, and the machine for itself
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./...
	@set -e; for what in $(MEASURE); do echo "== $$what"; go run ./internal/bench $$what; done

lint: ## format, vet, staticcheck, tidy
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff
