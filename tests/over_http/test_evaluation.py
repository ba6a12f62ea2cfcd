"""The evaluation's runner on real servers: nothing is lost or done twice, whatever goes away meanwhile."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from tools.client import MARKER, fetch, free
from tools.host import running_host
from tools.protocol import servers
from tools.protocol.__main__ import main
from tools.protocol.graph import POSITIONS
from tools.protocol.method import Method, Results, Setting, all_pairs
from tools.server import serve

ROOT = Path(__file__).resolve().parents[2]
SETTING = "gamma_0.75_temperature_1.5"
NAMES = {f"{content}_stylized_{style}.png" for content in ("astronaut", "chelsea") for style in ("coffee", "rocket")}


@pytest.fixture
def protocol(tmp_path):
    """The command's arguments for two contents and two styles, small and without metrics."""
    for folder, names in (("content", ("astronaut", "chelsea")), ("style", ("coffee", "rocket"))):
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copyfile(ROOT / "tests" / "pictures" / f"{name}.jpg", tmp_path / folder / f"{name}.jpg")
    folders = [part for name in ("content", "style", "out") for part in (f"--{name}", str(tmp_path / name))]
    return [*folders, "--side", "64", "--metrics", "none"]


@pytest.fixture
def history(server):
    """history(): what the server did in this test, [{node class: inputs}, class names that came from its cache,
    succeeded], in order.
    """
    known = set(json.loads(asyncio.run(fetch(server.url, "/history"))))

    def read():
        entries = json.loads(asyncio.run(fetch(server.url, "/history")))
        new = sorted((entry for id, entry in entries.items() if id not in known and entry["prompt"][2] != MARKER),
                     key=lambda entry: entry["prompt"][0])
        return [tell(entry) for entry in new]

    return read


def tell(entry: dict) -> tuple[dict, set, bool]:
    prompt, messages = entry["prompt"][2], dict(entry["status"]["messages"])
    cached = set(messages["execution_cached"]["nodes"])
    return {id: node["inputs"] for id, node in prompt.items()}, cached, "execution_success" in messages


def made(runs: list) -> list[tuple]:
    """What the successful ones of `runs` made."""
    return [(inputs["content_file"]["image"], inputs["style_file"]["image"], inputs["inject"]["gamma"])
            for inputs, _, success in runs if success]


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tools.protocol", *arguments], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env=os.environ | {"PYTHONUNBUFFERED": "1"})


def wait_for(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def pictures(tmp_path) -> dict[str, int]:
    """When each picture was written."""
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / SETTING).glob("*.png")}


def running(url: str) -> list:
    return json.loads(asyncio.run(fetch(url, "/queue")))["queue_running"]


def test_inversions_are_shared_and_a_broken_picture_is_left_out(server, protocol, history, tmp_path, capsys):
    (tmp_path / "content" / "broken.jpg").write_bytes((ROOT / "tests" / "pictures" / "camera.jpg").read_bytes()[:2000])
    assert main([*protocol, "--server", server.url, "--steps", "2", "--gamma", "0.75", "0.3"]) == 0
    out = capsys.readouterr().out
    assert "Skipping broken.jpg, which cannot be read" in out
    assert "8 of 8 pictures" in out and "(failed: 0, unreadable files: 1)" in out
    for setting in (SETTING, "gamma_0.3_temperature_1.5"):
        assert {path.name for path in (tmp_path / "out" / setting).iterdir()} == NAMES
        assert (tmp_path / "out" / f"{setting}.jpg").exists()
    runs = history()
    assert len(runs) == len(set(made(runs))) == 8
    order = [(style, content) for content, style, _ in made(runs)]
    styles = list(groupby(style for style, _ in order))
    assert len(list(groupby(order))) == 4 and len(styles) == 2, "ComfyUI keeps the last prompt only"
    inverted = [id for _, cached, _ in runs for id in ("content", "style") if id not in cached]
    assert inverted.count("style") <= 2, "a style was inverted again"
    assert inverted.count("content") <= 4, "a content was inverted again for another gamma"


@pytest.mark.parametrize(("contents", "styles"), [(3, 2), (2, 3)])
def test_with_files_each_picture_is_inverted_once(server, history, tmp_path, contents, styles):
    pictures = [ROOT / "tests" / "pictures" / f"{name}.jpg"
                for name in ("astronaut", "chelsea", "coffee", "rocket", "camera")]
    pairs = all_pairs(pictures[:contents], pictures[contents:])
    results = Results(tmp_path, pairs, [Setting(0.75, 1.5), Setting(0.3, 1.5)])
    asyncio.run(free(server.url))
    asyncio.run(servers.stylize_on_servers([server.url], Method(None, 64, 3 + contents, "auto", "official"), results,
                                           files=True))
    assert results.done == len(pairs) * 2 and not results.failed
    inverted = Counter(id for inputs, cached, _ in history() for id in ("content", "style") if "steps" in inputs[id]
                       and id not in cached)
    assert inverted == {"content": contents, "style": styles}


def test_the_built_in_transformer_is_evaluated_with_its_positions(server, protocol, history, tmp_path):
    command = [*protocol, "--server", server.url, "--steps", "2"]
    assert main([*command, "--built-in", "transformer"]) == 0
    assert pictures(tmp_path).keys() == NAMES
    inputs, _, _ = history()[0]
    assert inputs["inject"]["model"] == inputs["capture"]["model"] == ["positions", 0]
    declared = json.loads(asyncio.run(fetch(server.url,
                                            "/object_info/StyleIDPositions")))["StyleIDPositions"]["input"]["required"]
    assert {name: options["default"] for name, (_, options) in declared.items() if name != "model"} == POSITIONS
    assert main(command) == 1, "the folder was begun with another model"


@pytest.mark.slow
def test_a_killed_servers_pairs_go_to_the_other(server, protocol, history, tmp_path):
    with serve(running_host(), tmp_path / "second") as second:
        runner = start([*protocol, "--steps", "60", "--server", server.url, "--server", second.url])
        wait_for(lambda: running(second.url))
        os.kill(second.pid, signal.SIGKILL)
        out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 0, out
    assert f"{second.url} is lost" in out and "4 of 4 pictures" in out
    assert pictures(tmp_path).keys() == NAMES
    runs = history()
    assert len(runs) == len(set(made(runs))) == 4


@pytest.mark.slow
def test_a_cancelled_run_goes_on(server, protocol, history, tmp_path):
    command = [*protocol, "--steps", "61", "--server", server.url]
    runner = start(command)
    wait_for(lambda: pictures(tmp_path) and running(server.url))
    runner.send_signal(signal.SIGINT)
    out, _ = runner.communicate(timeout=20)
    assert runner.returncode == 130 and out.endswith("Stopped. The same command goes on from there.\n")
    wait_for(lambda: not running(server.url), 5)
    before = pictures(tmp_path)
    assert 0 < len(before) < 4
    runner = start(command)
    runner.communicate(timeout=60)
    after = pictures(tmp_path)
    assert runner.returncode == 0 and after.keys() == NAMES
    assert before.items() <= after.items(), "a picture was made again"
    runs = history()
    assert len(made(runs)) == len(set(made(runs))) == 4 and len(runs) <= 5
    assert main(command) == 0 and len(history()) == len(runs), "there was nothing left to do"


@pytest.mark.slow
def test_a_failed_picture_is_named_and_tried_once(server, protocol, history, capsys):
    assert main([*protocol, "--steps", "2", "--blocks", "6-12", "--server", server.url]) == 0
    out = capsys.readouterr().out
    assert "astronaut_stylized_coffee (gamma_0.75_temperature_1.5) failed: blocks" in out
    assert "0 of 4 pictures" in out and "(failed: 4, unreadable files: 0)" in out
    assert len(history()) == 4


def test_no_server_is_left(protocol, monkeypatch, capsys):
    monkeypatch.setattr(servers, "RETRY_SECONDS", (0, 0.1))
    assert main([*protocol, "--server", "http://127.0.0.1:9"]) == 1
    assert ("error: No server is left: 0 of 4 pictures are done. The same command goes on from there."
            in capsys.readouterr().err)


def test_a_checkpoint_that_the_server_does_not_have(server, protocol, capsys):
    assert main([*protocol, "--server", server.url, "--checkpoint", "missing.safetensors"]) == 1
    assert "missing.safetensors" in capsys.readouterr().err


def test_a_folder_keeps_to_one_method(server, protocol, capsys):
    assert main([*protocol, "--steps", "2", "--server", server.url]) == 0
    assert main([*protocol, "--steps", "3", "--server", server.url]) == 1
    assert "was begun with steps 2 (now 3). Name another folder with --out." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_of_a_cluster_is_replaced(protocol, tmp_path):
    """Ray on two nodes of one processor each, on this machine: an actor is killed at work, and its pair is made all the
    same.
    """
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        runner = start([*protocol, "--steps", "60", "--ray", cluster.address])
        wait_for(lambda: len(actors()) == 2, 120)
        wait_for(lambda: any(comfyui_of(actor) for actor in actors()), 120)
        killed = next(actor for actor in actors() if comfyui_of(actor))
        [left] = comfyui_of(killed)
        killed.kill()
        left.kill()  # which nobody else would end
        out, _ = runner.communicate(timeout=600)
    finally:
        cluster.shutdown()
    assert runner.returncode == 0, out
    assert "4 of 4 pictures" in out and pictures(tmp_path).keys() == NAMES


def actors() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["name"])
            if (process.info["name"] or "").startswith("ray::ComfyUI")]


def comfyui_of(actor: psutil.Process) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["ppid", "cmdline"])
            if process.info["ppid"] == actor.pid and "main.py" in " ".join(process.info["cmdline"] or ())]
