#!/usr/bin/env bash
# Train on one GPU or on several.
#
#     bash scripts/run_train_gpu.sh [DEVICE_NUM] [DEVICE_ID(s): 0,1,...] [CKPT_PATH] [--key value ...]
#
# DEVICE_NUM is the number of GPUs, 1 when not given; DEVICE_IDs are as many, 0,1,... when not given.
# CKPT_PATH holds the initial weights; without it, training starts from random ones. Several machines
# and logs: as run_distribute_train.sh says.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
require_environment

positional=()
while [[ $# -gt 0 && ${#positional[@]} -lt 3 && "$1" != --* ]]; do
    positional+=("$1")
    shift
done
device_num="${positional[0]:-1}"
[[ "$device_num" =~ ^[1-9][0-9]*$ ]] || fail "DEVICE_NUM: got '$device_num'; expected a whole number above 0"
example="$(seq -s, 0 $((device_num - 1)))"
device_ids="${positional[1]:-$example}"
is_list='^[0-9]+(,[0-9]+)*$'
count="$(tr ',' '\n' <<<"$device_ids" | wc -l)" different="$(tr ',' '\n' <<<"$device_ids" | sort -u | wc -l)"
[[ "$device_ids" =~ $is_list && "$count" == "$device_num" && "$different" == "$device_num" ]] ||
    fail "DEVICE_ID(s): got '$device_ids'; expected $device_num of them, all different, such as $example"
weights="${positional[2]:-}"

if ((device_num == 1)) && [[ "${NODE_NUM:-1}" == 1 ]]; then
    exec "$PYTHON" "$REPO_ROOT/midas_train.py" --device_target GPU --run_distribute False \
        --device_id "$device_ids" ${weights:+--model_weights "$weights"} "$@"
fi
# As for one GPU, the numbers are those within CUDA_VISIBLE_DEVICES where a job scheduler set it.
if [[ -n "${CUDA_VISIBLE_DEVICES:-}" ]]; then
    IFS=, read -r -a visible <<<"$CUDA_VISIBLE_DEVICES"
    chosen=()
    for id in ${device_ids//,/ }; do
        ((id < ${#visible[@]})) || fail "DEVICE_ID(s): no $id; CUDA_VISIBLE_DEVICES has ${#visible[@]} GPUs"
        chosen+=("${visible[id]}")
    done
    device_ids="$(IFS=, && echo "${chosen[*]}")"
fi
export CUDA_VISIBLE_DEVICES="$device_ids"
exec bash "$REPO_ROOT/scripts/run_distribute_train.sh" "$device_num" ${weights:+"$weights"} \
    --device_target GPU "$@"
