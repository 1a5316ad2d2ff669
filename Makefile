# make up      build and run the demo mesh; Ctrl-C ends all of it
# make build   three static binaries in bin/
# make test    everything but the cluster, its own set-up included
# make e2e     a real single-node Kubernetes, and Signet in it
# make lint    go vet and staticcheck
# make vuln    known vulnerabilities; needs https://vuln.go.dev
# make fuzz    each fuzz target for FUZZTIME (5s)
# make bench   the sidecar pair beside its peers; make bench-policies: what deciding costs
# make scale   signetd with 500 sidecars and 1,000 Services of a real API server (2 minutes)
# make images     OCI images of HUB and TAG in bin/images; ARCH=amd64,arm64, PUSH=-push
# make manifests  the generated files under deploy: CustomResourceDefinitions, kustomize base
# make clean   remove what these made

GO ?= go
FUZZTIME ?= 5s
HUB ?= registry.local/signet
TAG ?= $(shell sed -n "s/^appVersion: *//p" deploy/charts/signet/Chart.yaml)
ENVOY = $(CURDIR)/.cache/envoy/bin/envoy

.PHONY: up build signet demo-tools setup test e2e lint vuln fuzz bench bench-policies scale images manifests clean

# One plain command, no shell between: signals reach signet, and it notices when make is gone.
up: signet demo-tools
	@./bin/signet up deploy/demo

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/signet ./cmd/signetd ./cmd/signet-proxy

signet:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/signet

# The demo's programs, so that its first start does not build them in silence.
demo-tools:
	@echo "building the demo's programs (minutes the first time)"
	@cd deploy/demo && $(GO) tool -n go-httpbin >/dev/null && $(GO) tool -n nats-server >/dev/null

setup:
	@./test/setup.sh

# The modules below test and deploy drive programs, so the race detector would only slow down their compressing and linking.
test: setup demo-tools
	$(GO) vet ./...
	$(GO) test ./test/house
	kube=$$(./test/cluster/node/build.sh envtest) && SIGNET_TEST_KUBE=$$kube SIGNET_TEST_ENVOY=$(ENVOY) $(GO) test -race ./...
	@set -e; for m in $$(find test deploy -mindepth 2 -name go.mod -not -path 'test/cluster/*'); do \
		d=$$(dirname $$m); find $$d -name '*_test.go' | grep -q . || continue; \
		echo "cd $$d && $(GO) test ./..."; \
		(cd $$d && SIGNET_TEST_ENVOY=$(ENVOY) $(GO) test ./...); \
	done

# The cluster's programs are built once a machine (about 10 minutes on two cores).
e2e: setup
	cd test/cluster && $(GO) vet ./... && $(GO) test -count=1 -v -timeout 40m .

lint:
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

vuln:
	cd test/vuln && $(GO) tool govulncheck -C $(CURDIR) ./...

fuzz:
	@set -e; grep -rHoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | sort -u | \
	while IFS=: read -r file line; do \
		echo "$${line#func } in $$(dirname $$file)"; \
		$(GO) test -run '^$$' -fuzz "^$${line#func }\$$" -fuzztime $(FUZZTIME) $$(dirname $$file); \
	done

bench:
	./test/bench/run.sh

bench-policies:
	./test/bench/policies.sh

scale: build setup
	$(GO) run ./test/scale $(SCALE)

images:
	cd deploy/images && $(GO) run . -hub $(HUB) -tag $(TAG) -out $(CURDIR)/bin/images $(if $(ARCH),-arch $(ARCH)) $(PUSH)

manifests:
	cd deploy/manifests && $(GO) run .

clean:
	rm -rf bin .cache
