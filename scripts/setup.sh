#!/usr/bin/env bash
# Make .venv and install the project into it.
#
#     bash scripts/setup.sh [EXTRAS]
#
# EXTRAS is a comma-separated list of the extras of pyproject.toml; demo,cpu when not given, "" for
# none. A second run does nothing; asking for more extras adds them; an interrupted run is repaired by
# the next one. The extras dev, infer310 and cpu also install Debian packages, where that can be done:
# the browser chromium, what builds ascend310_infer (cmake, make, g++, OpenCV), and g++ for what cpu
# then builds, the convolutions of onednn_conv/.
#   PYTHON        the Python to build .venv from, where the first fitting one on PATH is not wanted
#   MIDAS_PYTHON  an interpreter that has MindSpore already (GPU, Ascend): checked, nothing installed
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

VENV="$REPO_ROOT/.venv"
PROJECT="$REPO_ROOT/pyproject.toml"
# The environment is whole when the stamp is there and the marker is not. Stamp: identity of the
# environment, hash of pyproject.toml, installed extras; one a line.
STAMP="$VENV/.setup-done"
MARKER="$VENV/.setup-started"
LOG="$VENV/setup.log"
PIP_PID=""

say() {
    printf 'setup: %s\n' "$*"
}

# ---- what is asked for, what is there ----

known_extras() {
    awk '/^\[/ { inside = ($0 ~ /^\[project\.optional-dependencies\]/) }
         inside && /^[A-Za-z0-9_-]+ *=/ { sub(/ *=.*/, ""); print }' "$PROJECT"
}

# Sorted, without repeats, comma-separated.
normalise_extras() {
    tr -d ' ' <<<"$1" | tr ',' '\n' | sed '/^$/d' | sort -u | paste -sd, -
}

check_extras() {
    local known extra
    known="$(known_extras)"
    for extra in ${1//,/ }; do
        grep -qxF -- "$extra" <<<"$known" ||
            fail "unknown extra '$extra': pyproject.toml has $(paste -sd, - <<<"$known")"
    done
}

stamp_line() {
    [[ ! -f "$STAMP" ]] || sed -n "${1}p" "$STAMP"
}

python_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null
}

# A moved folder or another Python behind .venv/bin/python changes it.
environment_identity() {
    printf '%s %s\n' "$(python_version "$VENV/bin/python")" "$VENV"
}

project_hash() {
    sha256sum <"$PROJECT" | cut -d' ' -f1
}

is_ready() {
    [[ -f "$STAMP" && ! -e "$MARKER" ]] &&
        [[ "$(stamp_line 1)" == "$(environment_identity)" ]] &&
        [[ "$(stamp_line 2)" == "$(project_hash)" ]] &&
        [[ "$(normalise_extras "$1,$(stamp_line 3)")" == "$(stamp_line 3)" ]]
}

# ---- what the machine must have ----

fits() {
    [[ "$1" =~ ^3\.1[0-2]$ ]]
}

# Sets FOUND_PYTHON. A name on PATH may be a shim that does not run: only an answer counts.
find_python() {
    local candidates=(python3.12 python3.11 python3.10 python3 python) candidate version
    local seen="" without_venv=""
    [[ -z "$BASE_PYTHON" ]] || candidates=("$BASE_PYTHON")
    for candidate in "${candidates[@]}"; do
        version="$(python_version "$candidate")" || continue
        if ! fits "$version"; then
            seen+="${seen:+, }$candidate is $version"
        elif "$candidate" -c 'import ensurepip, venv' 2>/dev/null </dev/null; then
            FOUND_PYTHON="$candidate"
            return
        else
            without_venv="${without_venv:-$version}"
        fi
    done
    [[ -z "$without_venv" ]] ||
        fail "Python $without_venv cannot make environments: run 'apt-get install python$without_venv-venv' (Debian, Ubuntu), then this again"
    fail "no Python 3.10 to 3.12 (${seen:-none of ${candidates[*]} runs}): install one, or name it: PYTHON=/path/to/python3.11 bash scripts/setup.sh"
}

# Megabytes on disk while the part is being installed (Python 3.11, Linux): its files, its downloads
# beside them and their copies in the cache of pip. A CUDA build of torch takes some 6 GB more.
part_size_mb() {
    case "$1" in
        core) echo 4700 ;;
        convert) echo 1300 ;;
        demo) echo 450 ;;
        gpu) echo 6200 ;;
        dev) echo 350 ;;
        onnx) echo 550 ;;
        cpu) echo 5 ;;
        infer310) echo 350 ;;
        *) echo 500 ;;
    esac
}

free_mb() {
    df -Pk "$VENV" | awk 'NR == 2 { print int($4 / 1024) }'
}

# The parts that the stamp does not list must fit on the disk.
check_space() {
    local part need=0 free
    for part in core ${1//,/ }; do
        [[ -f "$STAMP" && ",core,$(stamp_line 3)," == *",$part,"* ]] ||
            need=$((need + $(part_size_mb "$part")))
    done
    free="$(free_mb)"
    ((free >= need)) ||
        fail "no disk space: the set-up needs about $need MB in $VENV, $free MB are free; free some, or make .venv a link to a folder on a larger disk"
}

# ---- the work ----

# Empties a half-made .venv. One without marker and stamp may be somebody's own: it is used if it can
# be, and left alone if not.
repair_venv() {
    if [[ -e "$MARKER" || (-f "$STAMP" && "$(stamp_line 1)" != "$(environment_identity)") ]]; then
        say "repairing .venv: an earlier set-up did not finish, or the folder was moved"
        touch "$MARKER"
        find "$VENV/" -mindepth 1 -maxdepth 1 ! -name "$(basename "$MARKER")" -exec rm -rf {} +
    elif [[ -n "$(ls -A "$VENV")" ]] && ! is_usable_venv; then
        fail "$VENV is not an environment of Python 3.10 to 3.12 with pip: move it away, then run this again"
    fi
}

is_usable_venv() {
    fits "$(python_version "$VENV/bin/python")" && "$VENV/bin/python" -c 'import pip' 2>/dev/null
}

make_venv() {
    touch "$MARKER"
    say "making .venv with Python $(python_version "$FOUND_PYTHON")"
    "$FOUND_PYTHON" -m venv "$VENV" >"$LOG" 2>&1 || explain_failure
}

# Follows a running pip: a line for each phase, on a terminal a live line below it.
watch_pip() {
    local start=$SECONDS step="" line clear=""
    [[ ! -t 1 ]] || clear=$'\r\033[K'
    while kill -0 "$PIP_PID" 2>/dev/null; do
        sleep 0.3
        if [[ "$step" != "installing"* ]]; then
            step="$(grep -oE '^ *(Collecting|Downloading|Processing) [^ ]+( \(.* .B\))?' "$LOG" | tail -n 1 || true)"
            if has_begun_installing; then
                step="installing $(sed -n 's/^Installing collected packages: //p' "$LOG" | tr ',' '\n' | wc -l) packages"
                printf '%s' "$clear"
                say "downloaded in $((SECONDS - start)) s, $step"
            fi
        fi
        line="setup: $((SECONDS - start)) s $step"
        [[ -z "$clear" ]] || printf '%s%s' "$clear" "${line:0:${COLUMNS:-80}-1}"
    done
    printf '%s' "$clear"
}

# pip resolves and downloads everything before it changes the environment, and says when.
has_begun_installing() {
    grep -q '^Installing collected packages' "$LOG"
}

# One line for what went wrong, from pip's log.
explain_failure() {
    local wanted error again="run 'bash scripts/setup.sh' again (log: $LOG)"
    if grep -q 'No space left on device' "$LOG" || (($(free_mb) < 20)); then
        fail "no disk space left for $VENV ($(free_mb) MB free): free some, then $again"
    fi
    wanted="$(sed -nE 's/.*satisfies the requirement (.*) \(from versions: none\).*/\1/p' "$LOG" | tail -n 1)"
    [[ -z "$wanted" ]] ||
        fail "no package registry reached that has '$wanted' for this machine: check the network, the proxy and PIP_INDEX_URL, then $again"
    if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|HTTPError' "$LOG"; then
        fail "the package registry stopped answering: check the network, the proxy and PIP_INDEX_URL, then $again"
    fi
    error="$(sed -nE 's/^ *(error|[A-Za-z]*Error): */\1: /Ip' "$LOG" | tail -n 1)"
    fail "the set-up failed${error:+ ($error)}: see $LOG, then run 'bash scripts/setup.sh' again"
}

install_project() {
    local extras="$1" tmp="$VENV/tmp" status=0
    say "installing the project${extras:+ with $extras} (pip's log: $LOG)"
    touch "$MARKER"
    # Downloads go where the space was checked: /tmp is small on many machines. PIP_USER=0: a
    # pip.conf with 'user = true' is refused inside an environment.
    mkdir -p "$tmp"
    TMPDIR="$tmp" PIP_USER=0 "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input \
        --editable "$REPO_ROOT${extras:+[$extras]}" >"$LOG" 2>&1 </dev/null &
    PIP_PID=$!
    watch_pip
    wait "$PIP_PID" || status=$?
    PIP_PID=""
    rm -rf "$tmp"
    ((status != 0)) || return 0
    has_begun_installing || rm -f "$MARKER" # as it was before: nothing to repair
    explain_failure
}

write_stamp() {
    printf '%s\n' "$(environment_identity)" "$(project_hash)" "$1" >"$STAMP.tmp"
    mv -f "$STAMP.tmp" "$STAMP"
    rm -f "$MARKER"
}

# Bash starts pip in the background with Ctrl-C ignored, so it has to be ended by hand; the lock is
# free for the next run once it is gone.
on_interrupt() {
    if [[ -n "$PIP_PID" ]] && kill "$PIP_PID" 2>/dev/null; then
        wait "$PIP_PID" || true
    fi
    printf '\nsetup: interrupted; the next run repairs it\n' >&2
    exit 130
}

# ---- Debian packages, which some extras take besides Python's ----

debian_packages() {
    case "$1" in
        cpu) echo g++ ;;
        dev) echo chromium ;; # the test of the report page loads it there
        infer310) echo cmake make g++ libopencv-imgcodecs-dev libopencv-imgproc-dev ;;
    esac
}

# Whatever brought them: the commands and headers count, not the packages.
has_debian_packages() {
    case "$1" in
        cpu) command -v "${CXX:-g++}" ;;
        dev) command -v chromium ;;
        infer310) command -v cmake && command -v make && command -v g++ && has_opencv ;;
    esac >/dev/null
}

has_opencv() {
    local prefixes="${CMAKE_PREFIX_PATH:-}" prefix
    for prefix in ${prefixes//:/ } /usr /usr/local; do
        [[ ! -f "$prefix/include/opencv4/opencv2/imgcodecs.hpp" ||
            ! -f "$prefix/include/opencv4/opencv2/imgproc.hpp" ]] || return 0
    done
    return 1
}

# The extras among these whose Debian packages are not there.
without_debian_packages() {
    local extra
    for extra in ${1//,/ }; do
        [[ -z "$(debian_packages "$extra")" ]] || has_debian_packages "$extra" || echo "$extra"
    done
}

# Never a reason to fail: the rest works without them.
install_debian_packages() {
    local extra="$1" as_root=() packages=() problem="" log="$VENV/apt-$1.log"
    read -r -a packages <<<"$(debian_packages "$extra")"
    [[ "$(id -u)" == 0 ]] || as_root=(sudo -n)
    if ! command -v apt-get >/dev/null; then
        problem="this machine has no apt-get"
    elif ! "${as_root[@]}" true 2>/dev/null; then
        problem="not root, and sudo is missing or asks for a password"
    else
        say "installing Debian's ${packages[*]} (apt-get's log: $log)"
        apt_install "${packages[@]}" >"$log" 2>&1 || problem="apt-get could not install them (log: $log)"
    fi
    [[ -z "$problem" ]] ||
        say "$(what_is_lost "$extra"): $problem; 'apt-get install ${packages[*]}' as root adds it"
}

what_is_lost() {
    case "$1" in
        cpu) echo "no C++ compiler, so networks compute with MindSpore's own convolutions" ;;
        dev) echo "no chromium, so its test will be skipped" ;;
        infer310) echo "not all that builds ascend310_infer is there, so it will not run" ;;
    esac
}

has_onednn_conv() {
    local built="$REPO_ROOT/onednn_conv/out/libconvolution.so" source
    for source in "$REPO_ROOT"/onednn_conv/{convolution.cc,build.sh} "$STAMP"; do
        [[ "$built" -nt "$source" ]] || return 1
    done
}

# Never a reason to fail: the rest works without it.
build_onednn_conv() {
    local said
    has_debian_packages cpu || return 0 # said already
    said="$(bash "$REPO_ROOT/onednn_conv/build.sh" 2>&1)" ||
        say "networks compute with MindSpore's own convolutions: ${said#error: }"
}

apt_install() {
    local package
    run_apt update || return
    for package in "$@"; do
        # Ubuntu has a chromium that only stands for a snap: it has no version of its own.
        [[ -n "$(apt-cache madison "$package")" ]] || return
    done
    run_apt install --yes --no-install-recommends "$@"
}

run_apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get \
        -o Acquire::Retries=0 -o Acquire::http::Timeout=20 "$@" </dev/null
}

modules_of() {
    case "$1" in
        core) echo mindspore numpy cv2 scipy h5py yaml PIL tqdm matplotlib pydantic jinja2 safetensors tensorboardX psutil src.config ;;
        demo) echo mitsuba skimage ;;
        convert) echo torch ;;
        gpu) echo nvidia.{cuda_runtime,cuda_nvrtc,cublas,cudnn,cufft,curand,cusolver,cusparse} ;;
        dev) echo pytest xdist hypothesis ruff playwright ;;
        onnx) echo onnx onnxruntime openvino ;;
        infer310) echo openvino ;;
    esac
}

# Imports the modules it is given; its last line names those that fail, and why the first does.
# The working folder is left out: in the repository, `src` would be found without being installed.
IMPORT_ALL='
import importlib, sys
sys.path = [folder for folder in sys.path if folder]
errors = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        errors[name] = " ".join(str(error).split())
if errors:
    sys.exit(", ".join(errors) + f" ({next(iter(errors.values()))})")
'

check_own_python() {
    local part modules output
    mapfile -t modules < <(for part in core ${1//,/ }; do modules_of "$part"; done | tr ' ' '\n')
    output="$("$PYTHON" -c "$IMPORT_ALL" "${modules[@]}" 2>&1 </dev/null)" ||
        fail "MIDAS_PYTHON=$PYTHON cannot import $(tail -n 1 <<<"$output"): run '$PYTHON -m pip install -e \"$REPO_ROOT${1:+[$1]}\"', or unset MIDAS_PYTHON"
}

set_up() {
    local extras start=$SECONDS
    trap on_interrupt INT TERM HUP
    extras="$(normalise_extras "$1,$(stamp_line 3)")"
    repair_venv
    [[ -e "$VENV/bin/python" ]] || find_python
    check_space "$extras"
    [[ -e "$VENV/bin/python" ]] || make_venv
    install_project "$extras"
    write_stamp "$extras"
    trap - INT TERM HUP
    say "ready in $((SECONDS - start)) s, $(du -sh "$VENV" | cut -f1) in .venv"
}

main() {
    (($# <= 1)) || fail "usage: bash scripts/setup.sh [EXTRAS, comma-separated: $(known_extras | paste -sd, -)]"
    local extras extra
    extras="$(normalise_extras "${1-demo,cpu}")"
    check_extras "$extras"
    if [[ -n "${MIDAS_PYTHON:-}" ]]; then
        check_own_python "$extras"
        [[ ",$extras," != *,cpu,* ]] || has_onednn_conv || build_onednn_conv
        return
    fi
    if is_ready "$extras" && [[ -z "$(without_debian_packages "$extras")" ]] &&
        { [[ ",$extras," != *,cpu,* ]] || has_onednn_conv; }; then
        return
    fi

    mkdir -p -- "$VENV" 2>/dev/null || fail "cannot make the folder $VENV: check the rights and the space"
    # Opened for writing, which changes nothing, because NFS gives exclusive locks on nothing less.
    exec 9<>"$PROJECT"
    flock --nonblock 9 || { say "waiting for another set-up to finish" && flock 9; }
    is_ready "$extras" || set_up "$extras"
    for extra in $(without_debian_packages "$extras"); do
        install_debian_packages "$extra"
    done
    [[ ",$extras," != *,cpu,* ]] || build_onednn_conv
}

main "$@"
