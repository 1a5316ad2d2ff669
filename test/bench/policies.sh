#!/usr/bin/env bash
# make bench-policies: builds, installs what is missing, measures for about eight minutes and prints the tables of the section
# Policies of docs/performance.md. The numbers go to .cache/bench/policies.json too. Exit 1: an aim was missed. Arguments are
# passed to policies.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PATH:/usr/sbin:/sbin"

die() { echo "test/bench/policies.sh: $*" >&2; exit 2; }

[ "$(uname -s)" = Linux ] || die "the bench runs on Linux, not on $(uname -s)"
[ "$(nproc)" -ge 2 ] || die "the bench wants two CPUs: one for the load, one for the proxies"
./test/setup.sh
export SIGNET_TEST_ENVOY="${SIGNET_TEST_ENVOY:-$PWD/.cache/envoy/bin/envoy}"

bin=.cache/bench/bin
mkdir -p "$bin"
CGO_ENABLED=0 go build -trimpath -o "$bin/" ./cmd/signet ./cmd/signetd ./cmd/signet-proxy
cc -O2 -o "$bin/load" test/bench/load.c
ulimit -n "$(ulimit -Hn)"
exec env PYTHONDONTWRITEBYTECODE=1 python3 test/bench/policies.py --bin "$bin" --out .cache/bench/policies.json "$@"
