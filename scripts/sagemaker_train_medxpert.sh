#!/usr/bin/env bash
# Data here, the four roles and their team in one SageMaker job, models back: `medpipe aws launch`, whose options may follow.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${MEDPIPE:-.venv/bin/medpipe}" aws launch "$@"
