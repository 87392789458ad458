"""scripts/setup.sh on machines that have what it needs, and on machines that do not.

The script under test is the real one. It runs in a copy of the files it reads; where a set-up must
succeed, the project is a stand-in that needs no registry: it builds itself (PEP 517 backend in its
own folder), and its extras are two tiny wheels in a local folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

STAND_IN_PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "stand-in"
version = "1.0"
dependencies = []

[project.optional-dependencies]
demo = ["demo-part"]
dev = ["dev-part"]
gpu = []
infer310 = []
cpu = []
"""

# Builds the editable wheel by hand, counts its builds, and waits where a test says so.
STAND_IN_BACKEND = """\
import os, time, zipfile
from pathlib import Path

METADATA = '''Metadata-Version: 2.1
Name: stand-in
Version: 1.0
Provides-Extra: demo
Requires-Dist: demo-part; extra == "demo"
Provides-Extra: dev
Requires-Dist: dev-part; extra == "dev"
'''

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with open("builds.txt", "a") as builds:
        builds.write("build\\n")
    time.sleep(float(os.environ.get("STAND_IN_BUILD_SECONDS", "0")))
    name = "stand_in-1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as wheel:
        wheel.writestr("stand_in.pth", os.getcwd() + "\\n")
        wheel.writestr("stand_in-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("stand_in-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("stand_in-1.0.dist-info/RECORD", "")
    return name

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise NotImplementedError
"""

# In the place of onednn_conv/build.sh.
STAND_IN_BUILD = """\
cd "$(dirname "$0")" && mkdir -p out && echo x >>times && touch out/libconvolution.so
"""


@dataclass
class Machine:
    """A folder with the project in it, and the environment of the shell that sets it up."""

    root: Path
    env: dict[str, str]

    @property
    def venv_python(self) -> Path:
        return self.root / ".venv" / "bin" / "python"

    def start(self, *extras: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.root / "scripts" / "setup.sh"), *extras],
            cwd="/",
            env=self.env | env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def start_and_wait_for_pip(self) -> subprocess.Popen[str]:
        """A set-up that stays in the middle of pip's work for 20 s."""
        process = self.start(STAND_IN_BUILD_SECONDS="20")
        deadline = time.monotonic() + 30
        while self.builds() == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.builds() == 1
        return process

    def setup(self, *extras: str, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*extras, **env)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def imports(self, *modules: str) -> bool:
        command = [str(self.venv_python), "-c", f"import {', '.join(modules)}"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def builds(self) -> int:
        path = self.root / "builds.txt"
        return path.read_text().count("build") if path.exists() else 0


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what steers pip and the scripts on this very machine."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PIP_", "MIDAS_")) and key not in ("PYTHON", "VIRTUAL_ENV")
    }
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"} | extra


def copy_scripts(root: Path) -> None:
    (root / "scripts").mkdir(parents=True)
    for name in ("setup.sh", "common.sh"):
        shutil.copy(REPO / "scripts" / name, root / "scripts" / name)


def write_wheel(folder: Path, module: str) -> None:
    info = f"{module}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", "")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def write_command(folder: Path, name: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def path_with_free_space(tmp_path: Path, kilobytes: int) -> dict[str, str]:
    """PATH with a `df -Pk` in front that reports so much free space."""
    folder = tmp_path / f"df-{kilobytes}"
    write_command(folder, "df", f"printf 'header\\n/dev/sda 99999999 1 {kilobytes} 1%% /\\n'")
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def assert_one_line_error(result: subprocess.CompletedProcess[str], *fragments: str) -> None:
    assert result.returncode == 2, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.fixture
def real_project(tmp_path: Path) -> Machine:
    """The real pyproject.toml, on a machine whose only registry refuses the connection."""
    root = tmp_path / "a clone"
    copy_scripts(root)
    (root / "src").mkdir()
    (root / "src" / "__init__.py").touch()
    (root / "README.md").touch()
    shutil.copy(REPO / "pyproject.toml", root)
    registry = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    env = clean_environment(PYTHON=sys.executable, PIP_TIMEOUT="2", **registry)
    return Machine(root, env | path_with_free_space(tmp_path, 90_000_000))


@pytest.fixture
def stand_in(tmp_path: Path) -> Machine:
    """A project that installs without a registry, on a machine with disk space."""
    root = tmp_path / "a clone"
    copy_scripts(root)
    (root / "pyproject.toml").write_text(STAND_IN_PROJECT)
    (root / "backend.py").write_text(STAND_IN_BACKEND)
    write_command(root / "onednn_conv", "build.sh", STAND_IN_BUILD)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "demo_part")
    write_wheel(wheels, "dev_part")
    env = clean_environment(PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))
    env |= path_with_free_space(tmp_path, 90_000_000)
    write_command(tmp_path / "browser", "chromium", "exit 0")
    return Machine(root, env | {"PATH": f"{tmp_path / 'browser'}:{env['PATH']}"})


def path_without(folder: Path, *prefixes: str) -> str:
    """Every command of /usr/bin and /bin whose name does not start so, as links in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in (Path("/usr/bin"), Path("/bin")):
        for command in source.iterdir():
            link = folder / command.name
            if not command.name.startswith(prefixes) and not link.is_symlink():
                link.symlink_to(command)
    return str(folder)


def test_no_fitting_python_is_one_line_with_the_versions_seen(
    real_project: Machine, tmp_path: Path
) -> None:
    path = path_without(tmp_path / "bin", "python")
    write_command(tmp_path / "bin", "python3", "echo 3.9")
    write_command(tmp_path / "bin", "python", "echo 3.13")
    write_command(tmp_path / "bin", "python3.12", "echo 'shim: not installed' >&2; exit 127")
    result = real_project.setup(PATH=path, PYTHON="")
    assert_one_line_error(result, "3.10 to 3.12", "python3 is 3.9", "python is 3.13", "install")


def test_python_named_by_hand_must_fit_too(real_project: Machine, tmp_path: Path) -> None:
    write_command(tmp_path / "old", "python", "echo 3.8")
    result = real_project.setup(PYTHON=str(tmp_path / "old" / "python"))
    assert_one_line_error(result, "3.10 to 3.12", "is 3.8")


def test_debian_python_without_venv_gets_the_apt_command(
    real_project: Machine, tmp_path: Path
) -> None:
    body = 'case "$2" in *ensurepip*) exit 1 ;; *) echo 3.11 ;; esac'
    write_command(tmp_path / "debian", "python", body)
    result = real_project.setup(PYTHON=str(tmp_path / "debian" / "python"))
    assert_one_line_error(result, "apt-get install python3.11-venv")


def test_any_other_failure_is_one_line_with_the_last_error(
    real_project: Machine, tmp_path: Path
) -> None:
    body = 'case "$2" in venv) echo "Error: the moon is full"; exit 1 ;; *) echo 3.11 ;; esac'
    write_command(tmp_path / "broken", "python", body)
    result = real_project.setup(PYTHON=str(tmp_path / "broken" / "python"))
    assert_one_line_error(result, "set-up failed", "the moon is full", "setup.log")


def test_full_disk_is_one_line_with_needed_and_free_space(
    real_project: Machine, tmp_path: Path
) -> None:
    result = real_project.setup(**path_with_free_space(tmp_path, 400 * 1024))
    assert_one_line_error(result, "no disk space", "400 MB are free")
    assert not real_project.venv_python.exists()


def test_unreachable_registry_is_one_line_that_names_pips_log(real_project: Machine) -> None:
    result = real_project.setup()
    log = real_project.root / ".venv" / "setup.log"
    assert_one_line_error(result, "registry", "setuptools", "PIP_INDEX_URL", str(log))
    assert "No matching distribution" in log.read_text()


def test_unknown_extra_is_one_line_with_the_known_ones(stand_in: Machine) -> None:
    assert_one_line_error(stand_in.setup("demmo"), "demmo", "demo,dev")


def test_second_run_does_nothing_and_later_wishes_are_added(stand_in: Machine) -> None:
    assert stand_in.setup().returncode == 0
    assert stand_in.imports("demo_part")
    assert not stand_in.imports("dev_part")

    start = time.monotonic()
    second = stand_in.setup()
    assert time.monotonic() - start < 2
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert stand_in.setup("").returncode == 0  # none is a subset as well
    assert stand_in.builds() == 1

    assert stand_in.setup("dev").returncode == 0
    assert stand_in.imports("demo_part", "dev_part")
    assert stand_in.setup("dev, demo").stdout == ""
    assert stand_in.builds() == 2

    with (stand_in.root / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    assert stand_in.setup("").returncode == 0
    assert stand_in.builds() == 3
    assert stand_in.setup("demo,dev").stdout == ""  # what was there before still counts


def test_cpu_builds_the_convolutions_once_and_again_when_they_changed(stand_in: Machine) -> None:
    folder = stand_in.root / "onednn_conv"
    assert stand_in.setup("").returncode == 0
    assert not (folder / "out").exists()
    source = folder / "convolution.cc"
    source.touch()
    for changed, count in ((False, 1), (False, 1), (True, 2)):
        if changed:
            later = (folder / "out" / "libconvolution.so").stat().st_mtime + 1
            os.utime(source, (later, later))
        assert stand_in.setup("cpu").returncode == 0
        assert len((folder / "times").read_text().split()) == count


def test_a_set_up_goes_on_without_the_convolutions(stand_in: Machine) -> None:
    write_command(stand_in.root / "onednn_conv", "build.sh", "echo error: no way >&2; exit 2")
    done = stand_in.setup("cpu")
    assert (done.returncode, done.stderr) == (0, "")
    expected = "setup: networks compute with MindSpore's own convolutions: no way"
    assert done.stdout.splitlines()[-1] == expected


class BareMachine:
    """A machine without chromium and cmake, with stand-ins for what might install them."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        self.path = path_without(folder, "python", "chromium", "cmake", "apt-", "sudo", "id", "df")
        self.calls = folder.parent / "calls.txt"
        write_command(folder, "df", "printf 'header\\n/dev/sda 99999999 1 90000000 1%% /\\n'")
        write_command(folder, "id", "echo 0")

    def add_apt(
        self, installs: str = "exit 0", versions: str = "echo 'chromium | 156 | bookworm'"
    ) -> None:
        """An apt-get that notes its calls and does `installs`; an apt-cache that says so."""
        note = f'printf "%s\\n" "$*" >>"{self.calls}"'
        add = (
            f'for name in chromium cmake; do case "$*" in *" $name"*) '
            f'printf "#!/bin/sh\\n" >"{self.folder}/$name"; chmod +x "{self.folder}/$name" ;; '
            "esac; done"
        )
        body = f'case "$*" in *install*) {add}; {installs} ;; esac'
        write_command(self.folder, "apt-get", f"{note}\n{body}")
        write_command(self.folder, "apt-cache", versions)

    def setup(self, extras: str) -> subprocess.CompletedProcess[str]:
        headers = self.folder / "include" / "opencv4" / "opencv2"
        headers.mkdir(parents=True, exist_ok=True)
        for name in ("imgcodecs.hpp", "imgproc.hpp"):
            (headers / name).touch()
        return self.machine.setup(extras, PATH=self.path, CMAKE_PREFIX_PATH=str(self.folder))

    def apt_calls(self) -> list[str]:
        """The last words of each call of apt-get."""
        if not self.calls.exists():
            return []
        return [line.split("Timeout=20 ")[-1] for line in self.calls.read_text().splitlines()]


@pytest.fixture
def bare(stand_in: Machine, tmp_path: Path) -> BareMachine:
    return BareMachine(stand_in, tmp_path / "bare")


def assert_one_line_without_browser(result: subprocess.CompletedProcess[str], reason: str) -> None:
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line for line in result.stdout.splitlines() if "no chromium" in line]
    assert len(lines) == 1
    assert "skipped" in lines[0]
    assert reason in lines[0]
    assert "apt-get install chromium" in lines[0]


def test_extra_dev_installs_the_browser_once(bare: BareMachine) -> None:
    bare.add_apt()
    assert bare.setup("demo").returncode == 0
    assert bare.apt_calls() == []
    first = bare.setup("dev")
    assert first.returncode == 0, first.stderr
    assert "chromium" in first.stdout
    assert bare.apt_calls() == ["update", "install --yes --no-install-recommends chromium"]
    second = bare.setup("dev")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(bare.apt_calls()) == 2


def test_browser_is_installed_into_an_environment_that_is_ready(bare: BareMachine) -> None:
    assert bare.setup("dev").returncode == 0
    bare.add_apt()
    assert bare.setup("dev").returncode == 0
    assert len(bare.apt_calls()) == 2
    assert bare.machine.builds() == 1


def test_browser_is_installed_through_sudo(bare: BareMachine) -> None:
    bare.add_apt()
    write_command(bare.folder, "id", "echo 1000")
    write_command(bare.folder, "sudo", '[ "$1" = -n ] && shift && exec "$@"')
    assert bare.setup("dev").returncode == 0
    assert len(bare.apt_calls()) == 2


def test_without_apt_get_the_browser_is_done_without(bare: BareMachine) -> None:
    assert_one_line_without_browser(bare.setup("dev"), "no apt-get")


@pytest.mark.parametrize("sudo", [None, "echo 'a password is required' >&2; exit 1"])
def test_without_rights_the_browser_is_done_without(bare: BareMachine, sudo: str | None) -> None:
    bare.add_apt()
    write_command(bare.folder, "id", "echo 1000")
    if sudo:
        write_command(bare.folder, "sudo", sudo)
    assert_one_line_without_browser(bare.setup("dev"), "not root")
    assert bare.apt_calls() == []


@pytest.mark.parametrize(
    ("installs", "versions", "calls"), [("exit 100", "echo 156", 2), ("exit 0", "exit 0", 1)]
)
def test_browser_that_cannot_be_installed_is_done_without(
    bare: BareMachine, installs: str, versions: str, calls: int
) -> None:
    """apt-get fails; or the name stands for a snap and no version is listed."""
    bare.add_apt(f'rm -f "{bare.folder}/chromium"; {installs}', versions)
    result = bare.setup("dev")
    assert_one_line_without_browser(result, "apt-dev.log")
    assert len(bare.apt_calls()) == calls
    assert bare.machine.imports("dev_part")


def test_extra_infer310_installs_what_builds_the_program_once(bare: BareMachine) -> None:
    bare.add_apt()
    assert bare.setup("infer310").returncode == 0
    packages = "cmake make g++ libopencv-imgcodecs-dev libopencv-imgproc-dev"
    assert bare.apt_calls() == ["update", f"install --yes --no-install-recommends {packages}"]
    second = bare.setup("infer310")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(bare.apt_calls()) == 2
    assert bare.setup("infer310,dev").returncode == 0
    assert bare.apt_calls()[-1].endswith("chromium")
    assert len(bare.apt_calls()) == 4


def test_without_apt_get_infer310_says_what_is_missing(bare: BareMachine) -> None:
    result = bare.setup("infer310")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line for line in result.stdout.splitlines() if "ascend310_infer" in line]
    assert len(lines) == 1
    assert "no apt-get" in lines[0]
    assert "apt-get install cmake make g++ libopencv-imgcodecs-dev" in lines[0]


def test_registry_lost_while_adding_leaves_the_environment_whole(
    stand_in: Machine, tmp_path: Path
) -> None:
    assert stand_in.setup("demo").returncode == 0
    (tmp_path / "wheels" / "dev_part-1.0-py3-none-any.whl").unlink()
    assert_one_line_error(stand_in.setup("dev"), "registry", "dev-part")
    assert stand_in.setup("demo").stdout == ""
    assert stand_in.imports("demo_part")


def test_killed_set_up_is_repaired_by_the_next_run(stand_in: Machine) -> None:
    process = stand_in.start_and_wait_for_pip()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for pip in (stand_in.root / ".venv").glob("lib/python*/site-packages/pip"):
        shutil.rmtree(pip)  # half-made in the worst place

    repaired = stand_in.setup()
    assert repaired.returncode == 0, repaired.stderr
    assert "repairing" in repaired.stdout
    assert stand_in.imports("demo_part", "pip")


def test_interrupt_ends_pip_and_says_so(stand_in: Machine) -> None:
    process = stand_in.start_and_wait_for_pip()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted" in err
    lock = ["flock", "--nonblock", str(stand_in.root / "pyproject.toml"), "true"]
    assert subprocess.run(lock).returncode == 0  # a pip that lives on would hold it


def test_second_set_up_waits_for_the_first(stand_in: Machine) -> None:
    first = stand_in.start(STAND_IN_BUILD_SECONDS="1")
    second = stand_in.start(STAND_IN_BUILD_SECONDS="1")
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum("waiting" in output for output in outputs) == 1
    assert stand_in.builds() == 1


def test_somebody_elses_folder_is_left_alone(stand_in: Machine) -> None:
    (stand_in.root / ".venv").mkdir()
    note = stand_in.root / ".venv" / "note.txt"
    note.write_text("mine")
    assert_one_line_error(stand_in.setup(), ".venv", "move it away")
    assert note.read_text() == "mine"


def test_own_interpreter_is_checked_and_nothing_is_installed(
    stand_in: Machine, tmp_path: Path
) -> None:
    write_command(tmp_path / "own", "python", "exit 0")
    ready = stand_in.setup(MIDAS_PYTHON=str(tmp_path / "own" / "python"))
    assert (ready.returncode, ready.stdout, ready.stderr) == (0, "", "")
    write_command(tmp_path / "own", "python", "echo 'Illegal instruction' >&2; exit 132")
    broken = stand_in.setup(MIDAS_PYTHON=str(tmp_path / "own" / "python"))
    assert_one_line_error(broken, "MIDAS_PYTHON", "Illegal instruction")
    assert not (stand_in.root / ".venv").exists()


CORE_MODULES = [
    *("mindspore", "numpy", "cv2", "scipy", "h5py"),
    *("yaml", "PIL", "tqdm", "matplotlib", "pydantic", "safetensors"),
    *("tensorboardX", "psutil", "jinja2"),
]
CUDA = [
    *("cuda_runtime", "cuda_nvrtc", "cublas", "cudnn", "cufft", "curand", "cusolver", "cusparse")
]


@pytest.mark.parametrize(
    ("extras", "modules", "missing"),
    [
        ("", CORE_MODULES, "src.config"),  # `src` lies in the working folder, but is not installed
        ("", [*CORE_MODULES[:-1], "src.config"], "jinja2"),
        ("demo", [*CORE_MODULES, "src.config", "mitsuba"], "skimage"),
        (
            "demo,dev",
            [*CORE_MODULES, "src.config", "pytest", "ruff"],
            "mitsuba, skimage, xdist, hypothesis, playwright",
        ),
        ("demo", [*CORE_MODULES, "src.config", "mitsuba", "skimage"], ""),
        (
            "gpu",
            [*CORE_MODULES, "src.config", *(f"nvidia.{name}" for name in CUDA if name != "cufft")],
            "nvidia.cufft",
        ),
    ],
)
def test_own_interpreter_must_have_what_the_extras_need(
    stand_in: Machine, tmp_path: Path, extras: str, modules: list[str], missing: str
) -> None:
    site = tmp_path / "site"
    for name in modules:
        path = site / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (stand_in.root / "src").mkdir()
    (stand_in.root / "src" / "config.py").touch()
    write_command(tmp_path / "own", "python", f'exec "{sys.executable}" -S "$@"')
    own = str(tmp_path / "own" / "python")
    done = subprocess.run(
        ["bash", "scripts/setup.sh", extras],
        cwd=stand_in.root,
        env=stand_in.env | {"MIDAS_PYTHON": own, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    if not missing:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return
    wanted = f'"{stand_in.root}[{extras}]"' if extras else f'"{stand_in.root}"'
    assert_one_line_error(done, f"cannot import {missing} (", f"'{own} -m pip install -e {wanted}'")
