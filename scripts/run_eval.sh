#!/usr/bin/env bash
# Evaluate a checkpoint zero-shot. The log is beside val.json (ann_file), with the suffix .log.
#
#     bash scripts/run_eval.sh [DEVICE_ID] [DATA_NAME] [CKPT_PATH] [DEVICE_TARGET] [--key value ...]
#
# DATA_NAME is Kitti, Sintel, TUM, ETH3D, NYU, DIW, Middlebury, several by comma, or all.
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
exec "$PYTHON" "$REPO_ROOT/midas_eval.py" "${arguments[@]}" "$@"
