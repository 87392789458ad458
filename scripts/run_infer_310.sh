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
# ascend310_infer/README.md; the other keys are those of config.yaml, such as --upsampling, or its
# --config_path. --size, --mean and --std follow from that configuration where they are not given.
#
#     result_val.json, result_val/                       scores, and their details with report.html
#     result_depth/                                      depth maps of images
#     result_Files/<dataset>/, time_Result/              predictions and times
#     infer_310_logs/{build,infer,postprocess}.log       what the three stages said
#     earlier/<date-time>/                               what was there of an earlier run
#
# The exit code is that of the stage that failed; 1: some images failed, the others are done; 70: a
# fault of postprocess.py itself; 129, 130, 143: stopped by SIGHUP, Ctrl-C, SIGTERM, which the stage
# at work gets too.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
require_environment

LOGS="$PWD/infer_310_logs"
EARLIER="" # where this run moves what it finds
CRASHED=1     # Python's exit code of a traceback
SOME_FAILED=4 # postprocess.py's, of images
{ : >&1; } 2>/dev/null || exec >/dev/null # nobody wants to see it

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
        --onnx_precision) fail "$key: midas_infer does not take it; use --precision" ;;
        --onnx_runtime) fail "$key: midas_infer does not take it; use --backend, --precision" ;;
        --eval_batch_size) fail "$key: midas_infer does not take it; use --batch_size" ;;
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
        { mkdir -p -- "$folder" && "$1" -- "$path" "$folder/"; } 2>/dev/null || cannot_write
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
        [[ ! -e "$EARLIER/$path" ]] || mv -- "$EARLIER/$path" "$path" 2>/dev/null || cannot_write
    done
    rmdir -p -- "$EARLIER/result_Files" 2>/dev/null || true
}

# ---- signals ----

STAGE=""    # the process that leads the group of the stage at work
SIGNALLED=0 # the exit code of a signal that came

# caught NAME NUMBER
caught() {
    SIGNALLED=$((128 + $2))
    [[ -z "$STAGE" ]] || signal_stage "$1" || kill "-$1" "$STAGE" 2>/dev/null || true
}

signal_stage() {
    kill "-$1" -- "-$STAGE" 2>/dev/null
}

trap 'caught HUP 1' HUP
trap 'caught INT 2' INT
trap 'caught QUIT 3' QUIT
trap 'caught TERM 15' TERM
trap '' PIPE # without a reader of stdout the work goes on

# await PID: its exit code; a signal ends a wait, not the process.
await() {
    local code=0
    wait "$1" || code=$?
    while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
    return "$code"
}

# What the stage itself has started may need a moment longer than the stage, but not for ever.
end_stragglers() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        signal_stage 0 || return 0
        sleep 0.1
    done
    signal_stage KILL || true
}

# ---- the three stages ----

# Run a command as the leader of a process group, so that signals reach all it starts, with the
# signals' defaults: bash has a command in the background ignore SIGINT, Python ignores SIGPIPE.
LEAD="
import os, signal, sys
os.setpgid(0, 0)
for name in ('SIGINT', 'SIGQUIT', 'SIGPIPE', 'SIGXFSZ'):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    print(f'error: {sys.argv[1]}: {error.strerror}', file=sys.stderr)
    sys.exit(126)
"

# Copy stdin to a file and, as long as somebody takes it, to stdout; fails if the file's part does.
keep_log() {
    trap '' HUP INT QUIT TERM # it has to keep what the stage says at its end
    exec 2>/dev/null
    tee -- "$1" | { cat || cat >/dev/null; }
}

say() {
    # shellcheck disable=SC2059
    printf "$@" 2>/dev/null || true
}

# run_stage NAME COMMAND...: its output on the screen and in its log; returns its exit code.
run_stage() {
    local code=0 out keeper
    ((SIGNALLED == 0)) || return "$SIGNALLED"
    say '== %s\n' "$1"
    exec {out}> >(keep_log "$LOGS/$1.log" 9>&-)
    keeper=$!
    "$PYTHON" -I -S -c "$LEAD" "${@:2}" >&"$out" 2>&1 {out}>&- 9>&- &
    STAGE=$!
    exec {out}>&-
    ((SIGNALLED == 0)) || kill -TERM "$STAGE" 2>/dev/null || true # it came before STAGE was known
    await "$STAGE" || code=$?
    ((SIGNALLED == 0)) || end_stragglers
    STAGE=""
    await "$keeper" || ((SIGNALLED)) || cannot_write
    ((SIGNALLED == 0)) || code=$SIGNALLED
    return "$code"
}

has_scores() {
    grep -qs "\"$dataset\"" result_val.json
}

# stop NAME CODE [EXIT_CODE]: of a stage that failed.
stop() {
    local log="$LOGS/$1.log" note=""
    if [[ "$1" == infer ]] && has_scores; then
        note=" result_val.json holds scores of an earlier run;"
    elif [[ "$1" == postprocess && -n "$EARLIER" ]] && has_scores &&
        cmp -s result_val.json "$EARLIER/result_val.json"; then
        note=" result_val.json holds scores of an earlier run;"
    fi
    {
        printf 'error: %s failed with exit code %d;%s its log, %s, ends with:\n' \
            "$1" "$2" "$note" "$log"
        [[ ! -e "$log" ]] || tr '\r' '\n' <"$log" | sed '/^ *$/d' | tail -n 8 | sed 's/^/    /'
    } >&2
    exit "${3:-$2}"
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
    if [[ "$dataset" == images ]]; then
        aside mv result_depth
    elif has_scores || [[ ! -e result_val.json ]]; then
        aside keep_copy result_val.json result_val
    fi
    ((incomplete == 0)) || more=(--on_error skip)
    run_stage postprocess "${score[@]}" "${more[@]}" "${score_flags[@]}" || code=$?
    if [[ "$dataset" == images && "$code" == "$SOME_FAILED" ]]; then
        incomplete=1
    elif ((code == CRASHED)); then
        stop postprocess "$code" 70
    elif ((code)); then
        stop postprocess "$code"
    fi
}

# A mistake that the last stage would find should not cost the time of the others. The configuration
# also says what the program needs to know, where the user did not.
check() {
    local code=0 lines line
    lines="$("${score[@]}" --check "${score_flags[@]}")" || code=$?
    ((SIGNALLED == 0)) || exit "$SIGNALLED"
    if ((code == CRASHED)); then
        printf 'error: postprocess.py --check crashed, see above; nothing was done\n' >&2
        exit 70
    fi
    ((code == 0)) || exit "$code"
    while IFS= read -r line; do
        [[ " ${infer_flags[*]} " == *" ${line%%=*} "* ]] || infer_flags+=("${line%%=*}" "${line#*=}")
    done <<<"$lines"
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

check
exec 9<.
flock --nonblock 9 || fail "another run works in $PWD: wait for it, or take another folder"
aside mv infer_310_logs
mkdir -- "$LOGS" 2>/dev/null || cannot_write
incomplete=0
build
infer
postprocess
tell 2>/dev/null || true # without a reader
if ((incomplete)); then
    printf 'error: not all images are in these results: the logs name those that failed\n' >&2
    exit 1
fi
