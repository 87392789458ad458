#!/usr/bin/env bash
# Train on one device. The log is train.log in the run's folder, which the last line names.
#
#     bash scripts/run_standalone_train.sh [DEVICE_ID] [CKPT_PATH] [--key value ...]
#
# CKPT_PATH holds the initial weights; without it, training starts from random ones.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
require_environment

arguments=()
for key in device_id model_weights; do
    [[ $# -gt 0 && "$1" != --* ]] || break
    arguments+=("--$key" "$1")
    shift
done
exec "$PYTHON" "$REPO_ROOT/midas_train.py" "${arguments[@]}" "$@"
