#!/usr/bin/env bash
# Train on several devices of one machine, or of several.
#
#     bash scripts/run_distribute_train.sh [DEVICE_NUM] [CKPT_PATH] [--key value ...]
#
# DEVICE_NUM is the number of devices of this machine, 8 when not given (on a CPU: of processes).
# CKPT_PATH holds the initial weights; without it, training starts from random ones. On several
# machines, run it on each with the same DEVICE_NUM and, in the environment:
#   NODE_NUM      how many machines (1)
#   NODE_RANK     which one this is, from 0
#   MASTER_ADDR   an address of machine 0
#   MASTER_PORT   a port that is free there, as is the next one (8118)
# The log is train.log in the run's folder. What each process wrote is in launch/<date-time> beside
# it: under --run_path, else under output of this repository.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
require_environment

device_num=8 arguments=()
if [[ $# -gt 0 && "$1" != --* ]]; then
    device_num="$1"
    shift
fi
if [[ $# -gt 0 && "$1" != --* ]]; then
    arguments=(--model_weights "$1")
    shift
fi
nodes="${NODE_NUM:-1}"
[[ "$device_num" =~ ^[1-9][0-9]*$ ]] || fail "DEVICE_NUM: got '$device_num'; expected a whole number above 0"
[[ "$nodes" =~ ^[1-9][0-9]*$ ]] || fail "NODE_NUM: got '$nodes'; expected a whole number above 0"

run_path="$REPO_ROOT/output" previous=""
for argument in "$@"; do
    [[ "$previous" != --run_path ]] || run_path="$argument"
    [[ "$argument" != --run_path=* ]] || run_path="${argument#*=}"
    previous="$argument"
done

launch=(--workers $((device_num * nodes)) --local_workers "$device_num" --log_dir "$run_path/launch")
if ((nodes > 1)); then
    [[ -n "${NODE_RANK:-}" && -n "${MASTER_ADDR:-}" ]] ||
        fail "NODE_NUM is $nodes: set NODE_RANK to the rank of this machine, from 0, and MASTER_ADDR to an address of machine 0"
    launch+=(--node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR")
fi
[[ -z "${MASTER_PORT:-}" ]] || launch+=(--master_port "$MASTER_PORT")
exec "$PYTHON" "$REPO_ROOT/src/launch.py" "${launch[@]}" -- \
    "$REPO_ROOT/midas_train.py" --run_distribute True "${arguments[@]}" "$@"
