#!/usr/bin/env bash
# Sourced by the other scripts, never run. After
#     source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
# a script has:
#   REPO_ROOT             the repository's folder, whatever folder the script was started from
#   PYTHON                the interpreter to run the project with: MIDAS_PYTHON if set, else .venv's
#   fail MESSAGE          one line on stderr, exit code 2
#   ensure_setup EXTRAS   scripts/setup.sh with these extras ("demo,dev"; "" for none)
#   require_environment   fails when PYTHON is not there yet (scripts that must not install anything)

REPO_ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)"

# PYTHON as the caller gave it names the Python that setup.sh builds .venv from. From here on it is
# the project's own interpreter, and is not exported: a script started by this one asks for itself.
BASE_PYTHON="${PYTHON:-}"
PYTHON="${MIDAS_PYTHON:-$REPO_ROOT/.venv/bin/python}"
export -n PYTHON

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

ensure_setup() {
    PYTHON="$BASE_PYTHON" bash "$REPO_ROOT/scripts/setup.sh" "$@"
}

require_environment() {
    command -v -- "$PYTHON" >/dev/null ||
        fail "$PYTHON not found: run 'bash scripts/setup.sh' first, or set MIDAS_PYTHON to a Python with MindSpore"
}
