"""A ComfyUI server of our own, with this pack linked in. Standard library only."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .host import ROOT, Host, HostError, child, run, say

START_SECONDS = 300
EXAMPLE = "example.png"  # that ComfyUI comes with, and the example graphs begin with


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def unused_port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise HostError(f'--port "{text}" should be a whole number from 1 to 65535. Leave it out to take a free one.')
    port = int(text)
    with socket.socket() as s:
        if s.connect_ex(("127.0.0.1", port)) == 0:
            raise HostError(f"Port {port} is busy. Leave --port out to take a free one, or name another.")
    return port


class Server(NamedTuple):
    url: str
    pid: int


def link(source: Path, target: Path):
    """Make `target` show the folder `source`; a junction on Windows, where symbolic links need rights."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        return
    if os.name == "nt":
        run(["cmd", "/c", "mklink", "/J", target, source], f"{source} could not be linked to {target}.")
    else:
        target.symlink_to(source, target_is_directory=True)


def command(host: Host, base: Path, port: int, checkpoint: Path | None) -> list:
    parts = [host.python, host.comfyui / "main.py", "--port", port, "--base-directory", base,
             "--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}",
             "--disable-auto-launch", "--disable-api-nodes", "--preview-method", "latent2rgb"]
    accelerator = run([host.python, "-c", "import torch; print(torch.cuda.is_available() or "
                                          "torch.backends.mps.is_available())"],
                      "torch does not start in the environment. Delete the folder .dev and try again.")
    if accelerator.strip() != "True":
        parts += ["--cpu", "--use-pytorch-cross-attention"]
    if checkpoint:
        paths = base / "extra_model_paths.yaml"
        paths.write_text(json.dumps({"checkpoint": {"base_path": str(checkpoint.parent), "checkpoints": "."}}))
        parts += ["--extra-model-paths-config", paths]
    return parts


@contextmanager
def serve(host: Host, base: Path, port: int | None = None, checkpoint: Path | None = None) -> Iterator[Server]:
    """Run ComfyUI on the folder `base` with this pack and the demo model, and stop it at the end."""
    port = port or free_port()
    link(ROOT, base / "custom_nodes" / "styleid")
    link(ROOT / "tools" / "miniature", base / "custom_nodes" / "styleid_demo")
    for folder in ("user", "input"):
        (base / folder).mkdir(exist_ok=True)
    shutil.copyfile(host.comfyui / "input" / EXAMPLE, base / "input" / EXAMPLE)
    url, log = f"http://127.0.0.1:{port}", base / "server.log"
    parts = command(host, base, port, checkpoint)
    with open(log, "w") as output, child(parts, cwd=host.comfyui, stdout=output, stderr=subprocess.STDOUT) as process:
        say(f"Starting ComfyUI at {url} (log: {log})")
        wait_until_up(url, process, log)
        yield Server(url, process.pid)


def wait_until_up(url: str, process: subprocess.Popen, log: Path):
    for _ in range(START_SECONDS):
        if process.poll() is not None:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise HostError(f"ComfyUI stopped while starting. The end of {log}:\n{last}")
        try:
            urllib.request.urlopen(f"{url}/system_stats", timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(1)
    raise HostError(f"ComfyUI did not answer within {START_SECONDS} seconds; see {log}.")
