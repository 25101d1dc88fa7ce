#!/usr/bin/env bash
# The data is made and goes to train/ and eval/ in the bucket: `medpipe aws upload`, whose options may follow.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${MEDPIPE:-.venv/bin/medpipe}" aws upload "$@"
