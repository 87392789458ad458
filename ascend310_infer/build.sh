#!/usr/bin/env bash
# Build midas_infer.
#
#     bash ascend310_infer/build.sh [--debug|--asan] [--clean]
#
# Makes out/midas_infer beside this file (out-debug, out-asan with these flags); a second run builds
# only what changed, --clean builds all. The log is build.log there.
#   LITE_HOME     MindSpore Lite's folder: builds the Ascend backend too
#   OpenVINO_DIR  OpenVINO's cmake folder, where it is not that of the Python package in .venv or of
#   MIDAS_PYTHON  an interpreter with the package openvino
set -euo pipefail

HERE="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

kind=""
type=Release
asan=OFF
clean=""
for flag in "$@"; do
    case "$flag" in
        --debug) kind=-debug type=Debug ;;
        --asan) kind=-asan type=RelWithDebInfo asan=ON ;;
        --clean) clean=yes ;;
        *) fail "unknown flag '$flag': build.sh [--debug|--asan] [--clean]" ;;
    esac
done

for tool in cmake make "${CXX:-g++}"; do
    command -v "$tool" >/dev/null ||
        fail "$tool is missing: run 'bash scripts/setup.sh infer310', then this again"
done

out="$HERE/out$kind"
log="$out/build.log"
mkdir -p "$out"
# Two builds in one folder would write the same files: the second one waits.
exec 9>"$out/lock"
! command -v flock >/dev/null || flock 9
[[ -z "$clean" ]] || (cd "$out" && find . -mindepth 1 ! -path ./lock -delete)

if ! {
    cmake -S "$HERE" -B "$out" -G "Unix Makefiles" \
        -DCMAKE_BUILD_TYPE="$type" -DMIDAS_ASAN="$asan" &&
        cmake --build "$out" --parallel "$(nproc)"
} >"$log" 2>&1; then
    ! grep -q 'wrong OpenVINO_DIR' "$log" ||
        fail "OpenVINO_DIR=$OpenVINO_DIR: no OpenVINO there; name its cmake folder or unset it"
    if grep -q 'no OpenCV\|no backend\|no MindSpore Lite' "$log"; then
        what="OpenCV's development packages are missing"
        ! grep -q 'no backend' "$log" || what="neither OpenVINO nor LITE_HOME is there"
        ! grep -q 'no MindSpore Lite' "$log" ||
            fail "LITE_HOME=$LITE_HOME: no runtime/lib/libmindspore-lite.so there; see README.md"
        fail "$what: run 'bash scripts/setup.sh infer310', then this again ($log)"
    fi
    tail -n 20 "$log" >&2
    fail "the build failed, see $log"
fi
backends=""
! grep -q '^-- OpenVINO: ' "$log" || backends="openvino"
! grep -q '^-- MindSpore Lite: ' "$log" || backends+="${backends:+, }lite"
printf 'built %s with %s\n' "$out/midas_infer" "$backends"
