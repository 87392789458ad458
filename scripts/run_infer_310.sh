#!/usr/bin/env bash
# Predict a benchmark, or a folder of images, with the C++ program of ascend310_infer, and score the
# predictions, or make depth maps of them. Everything is written to the working folder.
#
#     bash scripts/run_infer_310.sh [MODEL_PATH] [DATA_PATH] [DATASET_NAME] [DEVICE_ID] [--key value ...]
#
# MODEL_PATH     a .mindir (MindSpore Lite, on Ascend 310) or an .onnx (OpenVINO, on the CPU)
# DATA_PATH      the folder of the data set
# DATASET_NAME   Kitti, Sintel, TUM, or images: a folder of images, which has no scores
# DEVICE_ID      0 when not given
#
# --batch_size, --precision, --backend, --size, --mean, --std and --threads are midas_infer's, see
# ascend310_infer/README.md; the other keys are those of config.yaml, such as --upsampling.
#
#     result_val.json, result_val/                       scores, and their details with report.html
#     result_depth/                                      depth maps of images
#     result_Files/<dataset>/, time_Result/              predictions and times
#     infer_310_logs/{build,infer,postprocess}.log       what the three stages said
#     earlier/<date-time>/                               what was there of an earlier run
#
# The exit code is that of the stage that failed; 1: some images failed, the others are done.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
require_environment

LOGS="$PWD/infer_310_logs"
EARLIER="" # where this run moves what it finds

# ---- what is asked for ----

positional=()
while [[ $# -gt 0 && ${#positional[@]} -lt 4 && "$1" != --* ]]; do
    positional+=("$1")
    shift
done
((${#positional[@]} >= 3)) ||
    fail "usage: bash scripts/run_infer_310.sh MODEL_PATH DATA_PATH DATASET_NAME [DEVICE_ID] [--key value ...]"
model="${positional[0]}" data="${positional[1]}" dataset="${positional[2]}" device="${positional[3]:-0}"

case "$model" in
    *.onnx) backend=openvino ;;
    *.mindir) backend=lite ;;
    *) fail "MODEL_PATH: got '$model'; expected a .mindir or .onnx file that midas_export.py wrote" ;;
esac
[[ -f "$model" ]] || fail "MODEL_PATH: $model: no such file; midas_export.py writes it"
case "${dataset,,}" in
    kitti) dataset=Kitti ;;
    sintel) dataset=Sintel ;;
    tum) dataset=TUM ;;
    images) dataset=images ;;
    *) fail "DATASET_NAME: got '$dataset'; expected Kitti, Sintel, TUM or images" ;;
esac
[[ -d "$data" ]] || fail "DATA_PATH: $data: no such folder; expected that of $dataset"
[[ "$device" =~ ^[0-9]+$ ]] || fail "DEVICE_ID: got '$device'; expected a whole number from 0"
# Absolute, for those who read the results. Links stay: their names may mean something.
model="$(realpath -s -- "$model")" data="$(realpath -s -- "$data")"

infer_flags=() score_flags=()
while [[ $# -gt 0 ]]; do
    [[ "$1" == --* ]] || fail "$1: expected a flag, --key value"
    key="${1%%=*}"
    if [[ "$1" == *=* ]]; then
        value="${1#*=}"
    else
        [[ $# -ge 2 ]] || fail "$1: expected a value behind it"
        value="$2"
        shift
    fi
    shift
    case "$key" in
        --backend) backend="$value" ;;
        --batch_size | --precision | --size | --mean | --std | --threads) infer_flags+=("$key" "$value") ;;
        --device_id) fail "$key: give it as DEVICE_ID, the fourth argument" ;;
        --data_name | --datapath_* | --input_path | --output_path | --result_path | --ann_file)
            fail "$key: set by this script; postprocess.py takes it"
            ;;
        *) score_flags+=("$key=$value") ;;
    esac
done

score=("$PYTHON" "$REPO_ROOT/postprocess.py" --data_name "$dataset" --result_path result_Files)
if [[ "$dataset" == images ]]; then
    score+=(--input_path "$data" --output_path result_depth)
else
    score+=("--datapath_$dataset" "$data" --ann_file result_val.json)
fi

# ---- what an earlier run left ----

cannot_write() {
    printf 'error: %s: cannot be written; work in a folder of your own with space left\n' "$PWD" >&2
    exit 5
}

# One new folder for everything that this run moves, made when there is something.
choose_earlier() {
    local stamp number=1
    [[ -z "$EARLIER" ]] || return 0
    stamp="$PWD/earlier/$(date +%Y%m%d-%H%M%S)"
    EARLIER="$stamp"
    while [[ -e "$EARLIER" ]]; do
        number=$((number + 1))
        EARLIER="$stamp-$number"
    done
}

# aside COMMAND PATH...: of what there is, paths below the working folder.
aside() {
    local path folder
    for path in "${@:2}"; do
        [[ -e "$path" ]] || continue
        choose_earlier
        folder="$(dirname -- "$EARLIER/$path")"
        { mkdir -p -- "$folder" && "$1" -- "$path" "$folder/"; } || cannot_write
    done
}

keep_copy() {
    cp -a "$@"
}

# put_back PATH...: what `aside mv` took.
put_back() {
    local path
    [[ -n "$EARLIER" ]] || return 0
    for path in "$@"; do
        [[ ! -e "$EARLIER/$path" ]] || mv -- "$EARLIER/$path" "$path" || cannot_write
    done
    rmdir -p -- "$EARLIER/result_Files" 2>/dev/null || true
}

# ---- the three stages ----

# run_stage NAME COMMAND...: its output on the screen and in its log; returns its exit code.
run_stage() {
    local log="$LOGS/$1.log" codes
    printf '== %s\n' "$1"
    "${@:2}" 2>&1 | tee -i -- "$log" && return 0
    codes=("${PIPESTATUS[@]}")
    ((codes[1] == 0)) || cannot_write
    return "${codes[0]}"
}

# stop NAME CODE: of a stage that failed.
stop() {
    local log="$LOGS/$1.log"
    {
        printf 'error: %s failed with exit code %d; its log, %s, ends with:\n' "$1" "$2" "$log"
        tr '\r' '\n' <"$log" | sed '/^ *$/d' | tail -n 8 | sed 's/^/    /'
    } >&2
    exit "$2"
}

build() {
    run_stage build bash "$REPO_ROOT/ascend310_infer/build.sh" || stop build $?
}

# Sets incomplete where some images failed.
infer() {
    local code=0
    aside mv "result_Files/$dataset" time_Result
    run_stage infer "$REPO_ROOT/ascend310_infer/out/midas_infer" --model "$model" --data "$data" \
        --dataset "$dataset" --output "$PWD" --backend "$backend" --device_id "$device" \
        "${infer_flags[@]}" || code=$?
    if ((code > 1)); then
        # A mistake that was noticed at the start costs no results.
        [[ -e "result_Files/$dataset" ]] || put_back "result_Files/$dataset" time_Result
        stop infer "$code"
    fi
    incomplete=$code
}

postprocess() {
    local code=0 more=()
    [[ "$dataset" != images ]] || aside mv result_depth
    ! grep -qs "\"$dataset\"" result_val.json || aside keep_copy result_val.json result_val
    ((incomplete == 0)) || more=(--on_error skip)
    run_stage postprocess "${score[@]}" "${more[@]}" "${score_flags[@]}" || code=$?
    # For images, 1 says that some failed.
    if [[ "$dataset" == images && "$code" == 1 ]]; then
        incomplete=1
    elif ((code)); then
        stop postprocess "$code"
    fi
}

tell() {
    printf '\n'
    if [[ "$dataset" == images ]]; then
        printf 'depth maps       %s\n' "$PWD/result_depth"
    else
        printf 'report           %s\n' "$PWD/result_val/report.html"
    fi
    printf 'predictions      %s\n' "$PWD/result_Files/$dataset"
    printf 'times            %s\n' "$PWD/time_Result/test_perform_static.txt"
    printf 'logs             %s\n' "$LOGS"
    [[ -z "$EARLIER" ]] || printf 'earlier results  %s\n' "$EARLIER"
    [[ "$dataset" == images ]] || printf 'result_val.json  %s\n' "$(<result_val.json)"
}

# A mistake that the last stage would find should not cost the time of the others.
"${score[@]}" --check "${score_flags[@]}"
exec 9<.
flock --nonblock 9 || fail "another run works in $PWD: wait for it, or take another folder"
aside mv infer_310_logs
mkdir -- "$LOGS" 2>/dev/null || cannot_write
incomplete=0
build
infer
postprocess
tell
if ((incomplete)); then
    printf 'error: not all images are in these results: the logs name those that failed\n' >&2
    exit 1
fi
