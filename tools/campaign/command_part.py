"""Damaged inputs for the commands, as real processes: one sentence and a status that is not 0, or success that names
what was left out.
"""

import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from ..host import ROOT, WORK
from . import damage
from .networks import write_weights
from .outcome import Outcome

SECONDS = 120
DEVICES = ("cpu", "cuda", "cuda:9", "cpu:7", "meta", "tpu", "", "mps", "\u2603")
NAMES = ("a", "b", "\u00e9 \u2603")
FOLDERS = {name: damage.FILES[name] for name in ("missing", "a folder", "a dangling link")}


class CommandPart:
    name = "commands"

    def __init__(self, seed: int):
        self.seed, self.folder = seed, Path(tempfile.mkdtemp(prefix="styleid-campaign-"))
        write_weights(self.folder / "weights")

    def close(self):
        shutil.rmtree(self.folder)

    def attempt(self, case: int) -> list[Outcome]:
        rng = random.Random(f"{self.seed} commands {case}")
        place = self.folder / f"case {case}"
        place.mkdir()
        try:
            with socket.create_server(("127.0.0.1", 0)) as busy:
                make = evaluation if rng.random() < 0.6 else developing
                tried, command = make(rng, place, self.folder / "weights", busy.getsockname()[1])
                return [judge(tried, command, place)]
        finally:
            shutil.rmtree(place)


def evaluation(rng: random.Random, place: Path, weights: Path, port: int) -> tuple[str, list]:
    """(what is tried, arguments of Python) of a measurement with one thing that is not as it should be."""
    for name in NAMES:
        damage.draw_picture(place / "content" / f"{name}.png", 1)
        damage.draw_picture(place / "stylized" / f"{name}_stylized_s.png", 2)
    damage.draw_picture(place / "style" / "s.png", 3)
    table = place / "pairs.csv"
    table.write_text(damage.HEADINGS + "\n"
                     + "".join(f"content/{name}.png,style/s.png,stylized/{name}_stylized_s.png\n" for name in NAMES))
    folders = {f"--{name}": place / name for name in ("content", "style", "stylized")}
    options = {**({"--pairs": table} if rng.random() < 0.3 else folders), "--metrics": "histogram",
               "--out": place / "report.json",
               "--device": "cpu"}
    what = rng.choice(("picture", "picture", "folder", "table", "weights", "out", "kept", "device", "metrics",
                       "options"))
    how = ""
    if what == "picture":
        path = rng.choice(sorted(path for path in place.rglob("*.png")))
        how = damage.damage(rng, damage.PICTURES, path)
        options |= {"--metrics": rng.choice(("histogram", "cfsd", "lpips")), "--weights": weights}
    elif what == "folder":
        options = {**folders, **{name: value for name, value in options.items() if name != "--pairs"}}
        how = damage.damage(rng, FOLDERS, options[rng.choice(list(folders))])
    elif what == "table":
        options = {"--pairs": table, **{name: value for name, value in options.items() if name not in folders}}
        how = damage.damage(rng, damage.TABLES, table)
    elif what == "weights":
        shutil.copytree(weights, place / "weights")
        path = place / "weights" / rng.choice(sorted(os.listdir(weights)))
        how = damage.damage(rng, damage.WEIGHTS, path)
        options |= {"--metrics": "cfsd" if "vgg" in path.name else "lpips", "--weights": place / "weights"}
    elif what == "out":
        (place / "file").write_text("")
        (place / "folder.json").mkdir()
        how = rng.choice((str(place / "folder.json"), str(place / "file" / "report.json"), "/proc/report.json",
                          str(place / "report.txt"), str(place / "report"), "",
                          str(place / "new" / "deep" / "report.md"), str(place / ("x" * 300 + ".json")),
                          str(place / "report.JSON"), ".json", "/dev/full.csv"))
        options["--out"] = how
    elif what == "kept":
        kept = place / "report.part"
        kept.write_bytes((weights / sorted(os.listdir(weights))[0]).read_bytes()[:9999])
        how = damage.damage(rng, damage.FILES, kept)
    elif what == "device":
        how = options["--device"] = rng.choice(DEVICES)
    elif what == "metrics":
        how = options["--metrics"] = rng.choice(("none", "", "CFSD", "fid"))
        options["--weights"] = weights
    else:
        name = how = rng.choice(sorted(options))
        del options[name]
    parts = [str(part) for name, value in options.items() for part in (name, value)]
    return f"measuring, {what}: {how if what in ('picture', 'folder', 'table', 'weights', 'kept') else 'unusual'}", [
        "-m", "styleid_core.metrics", *parts]


def same_host() -> list[str]:
    """Options for dev.py to use the ComfyUI that this runs in."""
    path = Path(os.environ["COMFYUI_PATH"])
    version = path.name.partition("-")[2]
    return ["--host", version] if path.parent == WORK else ["--comfyui", str(path)]


def developing(rng: random.Random, place: Path, weights: Path, port: int) -> tuple[str, list]:
    """The same for dev.py, whose arguments are wrong in a way that needs no server to be seen."""
    damage.draw_picture(place / "content" / "picture.png", 1)
    damage.draw_picture(place / "style" / "picture.png", 2)
    (place / "empty").mkdir()
    (place / "file").write_text("")
    (place / "main.py").mkdir()
    pairs = ["--content", place / "content", "--style", place / "style", "--out", place / "out"]
    nowhere = rng.choice((place / "missing.png", place / "empty", "", "\u2603", "x" * 300,
                          place / "file" / "picture.png"))
    tries = {
        "a file that is not there": [rng.choice(("demo", "serve")), rng.choice(("--checkpoint", "--content")), nowhere],
        "a port": ["serve", "--port", rng.choice((port, "-1", "99999", "http", "", "1e3"))],
        "a ComfyUI": ["demo", "--comfyui", rng.choice((place / "missing", place / "empty", place / "file", place,
                                                       "\u2603"))],
        "a version": ["test", "--host", rng.choice(("0.0.1", "", "newest", "0.30"))],
        "two ComfyUIs": ["test", "--host", "0.30.0", "--comfyui", place],
        "no command": rng.choice(([], ["dem"], ["--help-me"], ["demo", "serve"], ["figures", "--now"])),
        "pictures to stylize": ["evaluate", *same_host(), *pairs],
        "settings to stylize with": ["evaluate", *same_host(), *pairs, *rng.choice((
            ["--gamma", "many"], ["--steps", "few"], ["--side", "0"], ["--side", "-8"], ["--server", "localhost"],
            ["--ray"], ["--metrics"], ["--checkpoint", place / "missing"],
            ["--server", f"http://127.0.0.1:{port}", "--ray", "auto"]))],
        "training": ["train", *same_host(),
                     *rng.choice((["--images", place / "missing"], ["--images", place / "empty"], ["--images"]))],
    }
    name = rng.choice(list(tries))
    arguments = tries[name]
    if name == "pictures to stylize":
        path = rng.choice((place / "content", place / "style", place / "content" / "picture.png"))
        damage.damage(rng, FOLDERS if path.is_dir() else damage.FILES, path)
    return f"dev.py, {name}", ["dev.py", *map(str, arguments)]


def judge(tried: str, command: list[str], place: Path) -> Outcome:
    environment = {name: value for name, value in os.environ.items()
                   if name != "COMFYUI_PATH"} | {"TORCH_HOME": str(place / "hub")}
    shown = " ".join(part.replace(str(place), "PLACE")[:100] for part in command)
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, env=environment,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="replace", start_new_session=True)
    try:
        out, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with a server that it may have started
        return Outcome(tried, "crashed", f"no end after {SECONDS} s: {shown}")
    lines = [line for line in re.split(r"[\r\n]", errors) if line.strip()]
    last = (lines or [""])[-1].replace(str(place), "PLACE")
    if process.returncode < 0:
        return Outcome(tried, "crashed", f"signal {-process.returncode}: {shown}")
    if "Traceback (most recent call last)" in out + errors:
        return Outcome(tried, "raw", f"{last} ({shown})")
    if process.returncode:
        told = any(re.search(r"error: \S+ \S+", line) for line in lines)  # below it, what was left out and why
        return Outcome(tried, "refused" if told else "raw", f"{last} ({shown})")
    # Of a table that was cut, fewer.
    rows = (place / "pairs.csv").read_bytes().split()[1:] if "--pairs" in command else NAMES
    asked = min(len(rows), len(NAMES))
    return Outcome(tried, *judge_report(place / "report.json", asked, shown))


def judge_report(path: Path, asked: int, shown: str) -> tuple[str, str]:
    """A measurement that succeeded has numbers, and accounts for every pair that it was `asked` for."""
    if not path.is_file():
        return "right", shown
    report = json.loads(path.read_text(encoding="utf-8"))
    values = [value for row in report["per_pair"] for value in row.values() if isinstance(value, float)]
    if not all(map(math.isfinite, values)):
        return "wrong", f"NaN in the report ({shown})"
    if report["pairs"] + len(report["skipped"]) < asked:
        return "wrong", f"{report['pairs']} pairs and {len(report['skipped'])} left out of {asked} ({shown})"
    return "right", shown


def make_part(seed: int) -> CommandPart:
    return CommandPart(seed)
