#!/usr/bin/env bash
# make bench: builds, installs the peers that are missing, measures for about ten minutes and prints tables. The numbers go to
# .cache/bench/result.json too. Exit 1: an aim of docs/performance.md was missed. Arguments are passed to bench.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

die() { echo "test/bench/run.sh: $*" >&2; exit 2; }

[ "$(uname -s)" = Linux ] || die "the bench runs on Linux, not on $(uname -s)"
[ "$(nproc)" -ge 2 ] || die "the bench wants two CPUs: one for the load, one for the proxies"

packages=()
command -v nginx >/dev/null || packages+=(nginx-light)
command -v haproxy >/dev/null || packages+=(haproxy)
command -v gcc >/dev/null || packages+=(gcc libc6-dev)
if [ ${#packages[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || die "missing: ${packages[*]}; there is no apt-get here, install them by hand"
	sudo=
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null && sudo -n true 2>/dev/null || die "missing: ${packages[*]}; run as root: apt-get install ${packages[*]}"
		sudo="sudo -n"
	fi
	echo "installing ${packages[*]}"
	$sudo apt-get -qq update </dev/null >/dev/null
	$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" </dev/null >/dev/null
fi

if [ -z "${SIGNET_TEST_ENVOY:-}" ]; then
	./test/setup.sh
	export SIGNET_TEST_ENVOY="$PWD/.cache/envoy/bin/envoy"
fi

bin=.cache/bench/bin
mkdir -p "$bin"
CGO_ENABLED=0 go build -trimpath -o "$bin/" ./cmd/signet ./cmd/signetd ./cmd/signet-proxy ./test/bench/plain ./test/bench/issue
cc -O2 -o "$bin/load" test/bench/load.c
ulimit -n "$(ulimit -Hn)"
exec env PYTHONDONTWRITEBYTECODE=1 python3 test/bench/bench.py --bin "$bin" --out .cache/bench/result.json "$@"
