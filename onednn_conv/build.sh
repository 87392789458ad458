#!/usr/bin/env bash
# Build the convolutions that MindSpore's CPU programs compute with where they are faster.
#
#     bash onednn_conv/build.sh
#
# Makes out/libconvolution.so beside this file, for the MindSpore of .venv; a second run does nothing
# unless the source or MindSpore changed. Takes g++, and oneDNN's headers out of the package
# onednn-devel; the library itself is the one in MindSpore's package. The log is out/build.log.
#   CXX           the compiler, g++ unless set
#   MIDAS_PYTHON  an interpreter with MindSpore, in the place of .venv's
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/common.sh"

# oneDNN 3.11: the first headers whose thread pool fits both older and newer libraries, see
# convolution.cc; MindSpore 2.10 has 3.10.
HEADERS="onednn-devel==2026.0.2"
HERE="$REPO_ROOT/onednn_conv"
OUT="$HERE/out"
LOG="$OUT/build.log"

[[ $# -eq 0 ]] || fail "usage: bash onednn_conv/build.sh"
require_environment
[[ "$(uname -m)" == x86_64 ]] ||
    fail "onednn_conv is for x86_64, not for $(uname -m): MindSpore's own convolutions stay in use"
command -v "${CXX:-g++}" >/dev/null ||
    fail "${CXX:-g++} is missing: install a C++ compiler ('bash scripts/setup.sh cpu' does on Debian), then run this again"
onednn="$("$PYTHON" - <<'END'
import importlib.util, pathlib
spec = importlib.util.find_spec("mindspore")
found = spec and sorted(pathlib.Path(spec.origin).parent.glob("lib/libdnnl.so.3*"))
print(found[0] if found else "")
END
)"
[[ -n "$onednn" ]] || fail "$PYTHON has no MindSpore with oneDNN 3: its own convolutions stay in use"

mkdir -p "$OUT" 2>/dev/null && [[ -w "$OUT" ]] || fail "cannot write to $OUT: check the rights"
exec 9>"$OUT/lock" # two builds in one folder would write the same files: the second one waits
! command -v flock >/dev/null || flock 9
stamp="$(cat "$HERE/convolution.cc" "$HERE/build.sh" "$onednn" | sha256sum) $onednn"
if [[ -f "$OUT/libconvolution.so" && "$(cat "$OUT/stamp" 2>/dev/null)" == "$stamp" ]]; then
    touch "$OUT/libconvolution.so" # newer than what it was compared with
    exit 0
fi

build() {
    rm -rf "$OUT/headers" &&
        "$PYTHON" -m pip download --disable-pip-version-check --no-input --no-deps \
            --retries 1 --timeout 15 \
            --only-binary :all: --dest "$OUT/headers" "$HEADERS" &&
        "$PYTHON" -m zipfile -e "$OUT"/headers/*.whl "$OUT/headers" &&
        "${CXX:-g++}" -std=c++17 -O2 -Wall -Wextra -fPIC -fopenmp -shared -fvisibility=hidden \
            -isystem "$(dirname -- "$OUT"/headers/*.data/data/include/oneapi)" \
            "$HERE/convolution.cc" -o "$OUT/new.so" "$onednn" \
            -Wl,-rpath,"$(dirname -- "$onednn")" -Wl,--no-undefined
}

if ! build >"$LOG" 2>&1 </dev/null; then
    ! grep -q 'No matching distribution' "$LOG" ||
        fail "no package registry reached that has $HEADERS: check the network and the proxy ($LOG)"
    fail "the build failed ($(grep -m 1 -i 'error' "$LOG" || echo "no message")): see $LOG"
fi
mv -f "$OUT/new.so" "$OUT/libconvolution.so"
printf '%s\n' "$stamp" >"$OUT/stamp"
printf 'built %s\n' "$OUT/libconvolution.so"
