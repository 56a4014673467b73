# Everything but the targets marked so needs nothing but Go.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
RACE = ./internal/... ./examples/...
FUZZ ?= 30s
SEED ?= 0
N ?= 60

.PHONY: help build test race lint golden fuzz bench bench-pair bench-policies bench-memory bench-certificates bench-opa hostile soak rotation e2e demo istio-diff interop opa
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/tulle
	go build -o bin/tulle ./cmd/tulle

test: ## every test
	go test ./...

race: ## the concurrent packages under the race detector (needs a C compiler)
	go test -race -short -timeout 30m $(RACE)

lint: ## vet, staticcheck, gofmt; test/istio is only formatted, its vet needs Istio's module
	go vet ./...
	cd test/interop && go vet ./...
	cd test/opa && go vet ./...
	go run $(STATICCHECK) ./...
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }

golden: ## rewrite the golden files; read the diff
	go test ./internal/compile -update

fuzz: ## each fuzz target for $(FUZZ)
	@for f in $$(grep -rl --include=*_test.go '^func Fuzz' internal); do \
	  for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' $$f); do \
	    echo "== $$t in $$(dirname $$f)"; go test -run '^$$' -fuzz "^$$t$$" -fuzztime $(FUZZ) ./$$(dirname $$f) || exit 1; done; done

bench: ## Go benchmarks
	go test -run '^$$' -bench . -benchmem ./internal/...

bench-pair: ## two sidecars in a row beside HAProxy; ARGS="-only http1 -rounds 5" (installs peers and load tools with apt)
	bench/pair/tools
	go run ./bench/pair $(ARGS)

bench-policies: ## what authorization costs a request: 1000 policies in the mesh, 20 on the workload, with the bar
	go run ./bench/policies

bench-memory: ## what a sidecar's memory is, with the bars
	go run ./bench/memory $(ARGS)

bench-certificates: ## every sidecar of a mesh asks for a certificate at once, with the bars
	go run ./bench/certificates $(ARGS)

bench-opa: ## ResearchFlow's policy in the sidecar and by gRPC to an OPA on loopback
	go run ./bench/opa $(ARGS)

hostile: ## hostile peers (CONNS=4000, where the limit of open files allows), with figures: memory for each, what the others notice
	TULLE_HOSTILE=$(or $(CONNS),4000) go test -count=1 -v -timeout 20m -run TestHostilePeers ./internal/proxy | grep --line-buffered -E "hostile:|FAIL|^ok"

soak: ## ResearchFlow under mixed load, edits, kills and certificate renewal for $(MINUTES) minutes (default 30)
	TULLE_SOAK=$(or $(MINUTES),30)m go test -count=1 -v -timeout 24h -run TestSoak ./test/e2e

rotation: ## certificates of 10 s and a change of root under load for $(MINUTES) minutes (default 5): no request may fail
	TULLE_ROTATION=$(or $(MINUTES),5)m go test -count=1 -v -timeout 24h -run TestRotation ./test/e2e

istio-diff: ## what Istio's own control plane makes of our configurations beside what we make (SEED=, N=)
	cd test/istio && go test -vet=off -count=1 -timeout 60m -args -seed $(SEED) -n $(N)

interop: ## grpc-go's own interoperability suite through a pair of sidecars
	cd test/interop && go test -count=1 ./...

opa: ## ResearchFlow's policy decided by a real OPA server, by ours and in the sidecar
	cd test/opa && go test -count=1 ./...

e2e: ## the real binary, driven as a user would
	go test -count=1 -v ./test/...

demo: ## ResearchFlow in the mesh
	go run ./cmd/tulle up examples/researchflow
