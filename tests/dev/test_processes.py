"""What dev.py starts ends with it, however it is ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

# dev.py on the ComfyUI that these tests run in, with a base folder of its own
DEV = """
import sys
from pathlib import Path
import dev
from tools.host import running_host
dev.prepare = lambda comfyui, version: running_host()
dev.BASE = Path(sys.argv.pop(1))
sys.exit(dev.main())
"""


def hear_hangups():
    """Also where these tests run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that a program could act on")
@pytest.mark.parametrize(("command", "said", "name"), [
    ("demo", "Starting ComfyUI", "SIGHUP"), pytest.param("serve", "Open http", "SIGTERM", marks=pytest.mark.slow)])
def test_the_server_ends_with_dev(tmp_path, command, said, name):
    process = subprocess.Popen([sys.executable, "-c", DEV, tmp_path, command], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, preexec_fn=hear_hangups)
    assert any(said in line for line in process.stdout)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("main.py" in argument for child in children for argument in child.cmdline())
    process.send_signal(signal.Signals[name])
    process.wait(timeout=20)
    assert [child for child in children if child.is_running()] == []
