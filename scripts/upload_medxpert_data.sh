#!/usr/bin/env bash
# Finished splits to train/ and eval/ in the bucket: `medpipe aws upload`, whose options may follow.
set -euo pipefail
cd "$(dirname "$0")/.."
medpipe="${MEDPIPE:-.venv/bin/medpipe}"
"$medpipe" run --profile "${MEDPIPE_PROFILE:-sagemaker-qwen2.5}" --select '*splits/train,*splits/validation,*rewards/audit'
exec "$medpipe" aws upload "$@"
