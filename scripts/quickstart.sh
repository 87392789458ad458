#!/usr/bin/env bash
# The main job on rendered data and real photographs: set up, render, train a small MidasNet,
# evaluate it zero-shot, export it and turn photographs into depth maps.
#
#     bash scripts/quickstart.sh [--train N] [--test N] [--epochs N] [--data DIR] [--output DIR]
#
# --train and --test are numbers of rendered pictures (test: of each benchmark), 420 and 12 unless
# given; --epochs is epoch_size of scripts/quickstart.yaml unless given.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

train=420 test=12 epochs=()
data="$REPO_ROOT/data/quickstart"
run="$REPO_ROOT/output/quickstart-$(date +%Y%m%d-%H%M%S)"

is_number() {
    [[ "$1" =~ ^[1-9][0-9]*$ ]]
}

while [[ $# -gt 0 ]]; do
    [[ $# -ge 2 ]] || fail "$1: expected one of --train, --test, --epochs, --data, --output and a value"
    case "$1" in
        --train | --test | --epochs)
            is_number "$2" || fail "$1: got '$2'; expected a whole number above 0"
            ;;&
        --train) train="$2" ;;
        --test) test="$2" ;;
        --epochs) epochs=(--epoch_size "$2") ;;
        --data) data="$(realpath -m -- "$2")" ;;
        --output) run="$(realpath -m -- "$2")" ;;
        *) fail "$1: expected --train, --test, --epochs, --data or --output" ;;
    esac
    shift 2
done
[[ ! -e "$run" ]] || fail "--output: $run exists and is not overwritten; choose another, or move it away"

times=()
part() {
    local name="$1" start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    times+=("$name $((SECONDS - start)) s")
}

python_in_repo() {
    "$PYTHON" "$REPO_ROOT/$1" "${@:2}"
}

training() {
    local file
    bash "$REPO_ROOT/scripts/run_standalone_train.sh" 0 \
        --config_path "$REPO_ROOT/scripts/quickstart.yaml" --train_data_dir "$data" \
        --run_path "$(dirname -- "$run")" --run_name "$(basename -- "$run")" "${epochs[@]}"
    checkpoint=""
    for file in "$run"/ckpt/*.ckpt; do
        [[ ! "$file" -nt "$checkpoint" ]] || checkpoint="$file"
    done
}

part "set-up" ensure_setup demo,cpu
part "scenes" python_in_repo preprocess/render_scenes.py --output "$data" --train "$train" --test "$test"
part "photographs" python_in_repo preprocess/photographs.py --output "$data"
part "training" training
part "evaluation" bash "$REPO_ROOT/scripts/run_eval.sh" 0 Kitti,Sintel,TUM,Middlebury "$checkpoint" \
    --config_path "$run/config.yaml" --ann_file "$run/val.json"
part "export" python_in_repo midas_export.py --config_path "$run/config.yaml" \
    --model_weights "$checkpoint" --export_path "$run/midas.mindir"
part "depth maps" python_in_repo midas_run.py --config_path "$run/config.yaml" \
    --model_weights "$run/midas.mindir" --input_path "$data/photographs" --output_path "$run/depth"

printf '\n== done in %d s:%s\n' "$SECONDS" "$(printf ' %s,' "${times[@]}" | sed 's/,$//')"
cat <<END
results         $run/val.json $(cat "$run/val.json")
report          $run/val/report.html
checkpoint      $checkpoint
MINDIR          $run/midas.mindir
curves          $run/curves.png
depth pictures  $run/depth/*_depth.png
END
