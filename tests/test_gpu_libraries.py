"""CUDA's libraries for MindSpore's GPU plug-in: the real ones, of the extra `gpu`.

Nothing here needs a GPU. Each test loads libraries in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src import gpu_libraries
from src.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RUN = "from src.errors import run_program; from src import gpu_libraries, runtime; "


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


without_driver = pytest.mark.skipif(has_driver(), reason="this machine has NVIDIA's driver")


def python(code: str, *path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, without LD_LIBRARY_PATH; `path` is looked at for packages first."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "GLOG_v")}
    env = kept | {"PYTHONPATH": ":".join(map(str, path))} | env
    return subprocess.run(
        [sys.executable, "-c", RUN + code], cwd=ROOT, env=env, capture_output=True, text=True
    )


def assert_one_line_error(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: device_target: ")
    for fragment in fragments:
        assert fragment in line


# --- What resolves --------------------------------------------------------------------------------


@without_driver
def test_every_library_of_the_plugin_resolves_but_the_drivers():
    """As `ldd` finds them, for all libraries that belong to the plug-in, recursively."""
    plugin = gpu_libraries.plugin()
    libraries = [plugin, *plugin.parent.glob("gpu/*.so*"), *plugin.parent.glob("gpu11.6/*.so*")]
    assert len(libraries) == 5
    path = ":".join(map(str, gpu_libraries.library_folders().values()))
    missing, found = set(), set()
    for library in libraries:
        done = subprocess.run(
            ["ldd", str(library)],
            env=os.environ | {"LD_LIBRARY_PATH": path, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=True,
        )
        missing |= set(re.findall(r"(\S+) => not found", done.stdout))
        found |= set(re.findall(r"(\S+) => /\S+/nvidia/\w+/lib/", done.stdout))
    assert missing == {"libcuda.so.1"}
    assert found == {name for _, name in gpu_libraries.LIBRARIES}


@without_driver
def test_once_loaded_the_plugin_lacks_nothing_but_the_driver():
    """As the dynamic loader finds them, in a process started without LD_LIBRARY_PATH."""
    code = (
        "import ctypes, mindspore; plugin = str(gpu_libraries.plugin())\n"
        "for prepare in (lambda: None, gpu_libraries.load_libraries):\n"
        "    prepare()\n"
        "    try: ctypes.CDLL(plugin)\n"
        "    except OSError as error: print(error)"
    )
    before, after = python(code).stdout.splitlines()
    assert re.match(r"lib(?!cuda\.)\w+\.so\.\d+: cannot open shared object file", before)
    assert after.startswith("libcuda.so.1: cannot open shared object file")


def test_cudnn_and_nvrtc_find_the_parts_that_they_open_themselves():
    """cuDNN says its version's number without a device; NVRTC compiles without one."""
    code = """
import ctypes
gpu_libraries.load_libraries()
cudnn = ctypes.CDLL("libcudnn.so.8")
cudnn.cudnnGetVersion.restype = ctypes.c_size_t
for part in ("ops", "cnn", "adv"):
    for use in ("infer", "train"):
        assert getattr(cudnn, f"cudnn{part.title()}{use.title()}VersionCheck")() == 0
nvrtc = ctypes.CDLL("libnvrtc.so.11.2")
program = ctypes.c_void_p()
source = b'extern "C" __global__ void twice(float *x) { *x *= 2; }'
assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"t", 0, None, None) == 0
option = (ctypes.c_char_p * 1)(b"--gpu-architecture=compute_70")
assert nvrtc.nvrtcCompileProgram(program, 1, option) == 0
print(cudnn.cudnnGetVersion())
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert 8906 <= int(done.stdout) < 9000


# --- What MindSpore makes of them -----------------------------------------------------------------


@pytest.fixture(scope="module")
def stand_in_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libcuda.so.1 that the plug-in can be linked to and that knows no device (error 100)."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    names = (
        *("cuDeviceGetAttribute", "cuGetErrorName", "cuLaunchKernel", "cuModuleGetFunction"),
        *("cuModuleLoadDataEx", "cuModuleUnload", "cuStreamSynchronize"),
    )
    (folder / "driver.c").write_text("\n".join(f"int {n}(void) {{ return 100; }}" for n in names))
    library = folder / "libcuda.so.1"
    options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
    subprocess.run([compiler, *options, "-o", library, folder / "driver.c"], check=True)
    return library


@without_driver
@pytest.mark.parametrize("cuda_home", [None, "/usr/local/cuda-of-the-machine"])
def test_with_a_driver_mindspore_opens_the_plugin_whatever_cuda_the_machine_has(
    stand_in_driver, cuda_home
):
    """It gets as far as asking the driver, which is the stand-in, for its devices."""
    code = f"""
import ctypes, os
ctypes.CDLL({str(stand_in_driver)!r})
gpu_libraries.import_mindspore()
opened = {{line.split("/")[-1].strip() for line in open("/proc/self/maps")}}
print([name for name in opened if "mindspore_gpu" in name])
print(os.environ.get("CUDA_HOME"))
run_program(lambda: runtime.start("GPU"))
"""
    done = python(code, **({"CUDA_HOME": cuda_home} if cuda_home else {}))
    assert done.stdout.splitlines() == ["['libmindspore_gpu.so.11.6']", str(cuda_home)]
    assert done.returncode == 2
    assert "cannot use GPU 0 on this machine (The cudaGetLastError[35], CUDA driver" in done.stderr


# --- What is said when something is missing -------------------------------------------------------


@without_driver
def test_without_a_driver_the_training_ends_in_one_line():
    done = subprocess.run(
        [sys.executable, "midas_train.py", "--device_target", "GPU"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "MS_ROLE"},
        capture_output=True,
        text=True,
    )
    assert_one_line_error(done, "libcuda.so.1", "driver", "--device_target CPU")


def copy_of_packages(folder: Path) -> Path:
    """The installed `nvidia` packages as links, to leave some out."""
    for package in {package for package, _ in gpu_libraries.LIBRARIES}:
        target = folder / "nvidia" / package / "lib"
        target.mkdir(parents=True)
        for library in gpu_libraries.library_folders()[package].iterdir():
            (target / library.name).symlink_to(library)
    (folder / "nvidia" / "__init__.py").touch()
    return folder


@pytest.mark.parametrize("name", [name for _, name in gpu_libraries.LIBRARIES])
def test_a_missing_library_is_named_with_the_command_that_installs_it(tmp_path, name):
    (library,) = copy_of_packages(tmp_path).glob(f"nvidia/*/lib/{name}")
    library.unlink()
    done = python("run_program(gpu_libraries.load_libraries)", tmp_path)
    assert_one_line_error(
        done, name, "cannot open shared object file", "'bash scripts/setup.sh gpu'"
    )


def test_without_the_packages_the_first_library_is_named(tmp_path):
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").touch()
    done = python("run_program(gpu_libraries.load_libraries)", tmp_path)
    assert_one_line_error(done, "libcudart.so.11.0", "'bash scripts/setup.sh gpu'")


def test_a_cuda_of_the_machine_serves_where_the_packages_are_missing(tmp_path):
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").touch()
    path = ":".join(map(str, gpu_libraries.library_folders().values()))
    done = python("gpu_libraries.load_libraries()", tmp_path, LD_LIBRARY_PATH=path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_damaged_library_is_named(tmp_path):
    library = copy_of_packages(tmp_path) / "nvidia" / "curand" / "lib" / "libcurand.so.10"
    library.unlink()
    library.write_bytes(b"half a download")
    done = python("run_program(gpu_libraries.load_libraries)", tmp_path)
    assert_one_line_error(done, "libcurand.so.10", "'bash scripts/setup.sh gpu'")


def test_a_mindspore_without_gpu_plugin_is_named(monkeypatch):
    monkeypatch.setattr(gpu_libraries, "PLUGIN_CUDA", "99.9")
    with pytest.raises(UserError, match=r"no GPU plug-in \(/.*libmindspore_gpu\.so\.99\.9 is miss"):
        gpu_libraries.plugin()
