#!/usr/bin/env bash
# import.sh: take the images of $SIGNET_CLUSTER/images into a cluster that is up.
set -euo pipefail
. "$(dirname "$0")/env.sh"
for t in "$RUN"/images/*.tar; do "$NODE/in.sh" ctr -n k8s.io images import "$t" >> "$RUN/log/import.log" 2>&1; done
