#!/usr/bin/env bash
# Evaluate a checkpoint zero-shot. The log is beside val.json, with the suffix .log.
#
#     bash scripts/run_eval.sh [DEVICE_ID] [DATA_NAME] [CKPT_PATH] [DEVICE_TARGET] [--key value ...]
#
# DATA_NAME is Kitti, Sintel, TUM, Middlebury, several by comma, or all.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
require_environment

arguments=()
for key in device_id data_name ckpt_path device_target; do
    [[ $# -gt 0 && "$1" != --* ]] || break
    arguments+=("--$key" "$1")
    shift
done
results="$REPO_ROOT/val.json"
for ((i = 1; i < $#; i++)); do
    [[ "${!i}" != --ann_file ]] || { next=$((i + 1)) && results="${!next}"; }
done
log="${results%.json}.log"
: 2>/dev/null >"$log" || fail "ann_file: cannot write $log beside the results; create its folder"

status=0
"$PYTHON" "$REPO_ROOT/midas_eval.py" "${arguments[@]}" "$@" 2> >(tee -a -- "$log" >&2) |
    tee -a -- "$log" || status=$?
exit "$status"
