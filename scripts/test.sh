#!/usr/bin/env bash
# Set-up, then every check: lint, format, tests. Stops at the first that fails, with its exit code.
#
#     bash scripts/test.sh [PYTEST ARGUMENTS, paths from the repository's folder]
#
# Without arguments all tests run, in two processes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

part() {
    local name="$1" start=$SECONDS
    shift
    printf '== %s\n' "$name"
    "$@"
    printf '== %s: %d s\n' "$name" "$((SECONDS - start))"
}

cd -- "$REPO_ROOT"
part "set-up" ensure_setup demo,convert,cpu,dev,gpu,infer310,onnx
part "ruff check" "$PYTHON" -m ruff check .
part "ruff format" "$PYTHON" -m ruff format --check .
# Its closing line, with the time, stays the last one: CI reads it.
printf '== tests\n'
if (($# == 0)); then
    set -- --numprocesses 2 --dist loadfile # half the time and twice the memory of one process
fi
exec "$PYTHON" -m pytest "$@"
