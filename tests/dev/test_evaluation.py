"""The evaluation: nothing is lost or done twice, pictures are as the nodes make them, tables and plots."""

import csv
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tools.in_process  # noqa: F401
from tools.host import HostError
from tools.protocol.__main__ import RECIPES, keep, main, parse_arguments
from tools.protocol.method import Method, Setting, all_pictures, check_method
from tools.protocol.report import write_report

ROOT = Path(__file__).resolve().parents[2]
CONTENTS, STYLES = ("astronaut", "chelsea"), ("coffee", "rocket")
SETTING = "gamma_0.75_temperature_1.5"
NAMES = {f"{content}_stylized_{style}.png" for content in CONTENTS for style in STYLES}
SETTINGS = [Setting(gamma, temperature) for gamma in (0.3, 0.75) for temperature in (1.0, 1.5)]


def arguments(folder: Path) -> list[str]:
    """The command's, small and without metrics, for the folders content, style and out in `folder`."""
    folders = [part for name in ("content", "style", "out") for part in (f"--{name}", str(folder / name))]
    return [*folders, "--side", "64", "--metrics", "none"]


def copy_pictures(folder: Path, contents: tuple[str, ...], styles: tuple[str, ...]):
    for side, names in (("content", contents), ("style", styles)):
        (folder / side).mkdir()
        for name in names:
            shutil.copyfile(ROOT / "tests" / "pictures" / f"{name}.jpg", folder / side / f"{name}.jpg")


@pytest.fixture
def command(tmp_path):
    """The arguments for two contents and two styles."""
    copy_pictures(tmp_path, CONTENTS, STYLES)
    return arguments(tmp_path)


@pytest.fixture
def comfyui(monkeypatch):
    """comfyui("tools.pack"): a module that needs ComfyUI in this process, which is left as it was found."""
    for name in ("comfy.utils.PROGRESS_BAR_ENABLED", "folder_paths.input_directory"):
        module, _, value = name.rpartition(".")
        monkeypatch.setattr(name, getattr(importlib.import_module(module), value))
    return importlib.import_module


@pytest.fixture
def inverted(comfyui, monkeypatch):
    """A list that grows with every inversion."""
    transfer, made = comfyui("tools.demo.transfer").Transfer, []
    invert = transfer.invert
    monkeypatch.setattr(transfer, "invert", lambda self, image: made.append(image) or invert(self, image))
    return made


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tools.protocol", *arguments], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment)


def wait_for(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def paths(*names: str) -> list[Path]:
    return [Path(f"{name}.png") for name in names]


def pictures(tmp_path) -> dict[str, int]:
    """When each picture was written."""
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / SETTING).glob("*.png")}


def test_a_broken_picture_is_left_out(comfyui, command, tmp_path, capsys):
    (tmp_path / "content" / "broken.jpg").write_bytes((ROOT / "tests" / "pictures" / "camera.jpg").read_bytes()[:2000])
    assert main([*command, "--steps", "2", "--gamma", "0.75", "0.3"]) == 0
    out, error = capsys.readouterr()
    assert "Skipping broken.jpg, which cannot be read" in out
    assert "8 of 8 pictures" in out and "(failed: 0, unreadable files: 1)" in out
    assert "Stylizing" in error and "0/2" not in error, "the only bar is that of the pictures"
    for setting in (SETTING, "gamma_0.3_temperature_1.5"):
        assert {path.name for path in (tmp_path / "out" / setting).iterdir()} == NAMES
        assert (tmp_path / "out" / f"{setting}.jpg").exists()


@pytest.mark.parametrize(("contents", "styles"), [(3, 2), (2, 3)])
def test_each_picture_is_inverted_once(inverted, comfyui, tmp_path, monkeypatch, contents, styles):
    """Inversions of the side with fewer lie in files, of the other side the last one in memory."""
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(files))
    stylizer, seen = comfyui("tools.protocol.stylizer"), []
    as_png = stylizer.as_png

    def watched(image):
        seen.append(len(list(files.rglob("*.safetensors"))))
        return as_png(image)

    monkeypatch.setattr(stylizer, "as_png", watched)
    names = ("astronaut", "chelsea", "coffee", "rocket", "camera")
    copy_pictures(tmp_path, names[:contents], names[contents:])
    assert main([*arguments(tmp_path), "--steps", "2", "--gamma", "0.75", "0.3"]) == 0
    assert len(pictures(tmp_path)) == 6
    assert len(inverted) == contents + styles
    assert len(seen) == 12 and max(seen) == min(contents, styles) and not list(files.glob("styleid_*"))


@pytest.mark.parametrize("options", [["--gamma-curve", "cosine:1:0.5"], ["--built-in", "transformer"]])
@torch.inference_mode()
def test_pictures_are_those_of_the_sampler_node(comfyui, tmp_path, options):
    """The transformer sees styles where StyleID Positions puts them by default."""
    square = {}
    for side, name in (("content", "astronaut"), ("style", "rocket")):
        (tmp_path / side).mkdir()
        square[side] = Image.open(ROOT / "tests" / "pictures" / f"{name}.jpg").resize((64, 64))
        square[side].save(tmp_path / side / f"{name}.png")
    assert main([*arguments(tmp_path), "--steps", "3", *options]) == 0
    transfer, pack = comfyui("tools.demo.transfer"), comfyui("tools.pack").load_pack()
    nodes = transfer.Transfer(pack)
    content, style = (nodes.encode(transfer.as_image(square[side], 64)) for side in ("content", "style"))
    if "transformer" in options:
        flow = comfyui("tools.miniature.flow").load_trained_flow()
        [model] = pack.StyleIDPositions(model=flow, place="diagonal", high_frequencies=0.5, low_frequencies=1.5)
        more = {}
    else:
        [curve] = pack.StyleIDCurve(shape="cosine", start=1.0, end=0.5)
        model, more = nodes.model, {"gamma_curve": curve}
    latent = comfyui("tools.pack").stylize(pack, model=model, content=content, style=style, positive=nodes.positive,
                                           steps=3, **more)
    expected = (255 * nodes.decode(latent)[0]).clamp(0, 255).numpy()
    made = numpy.array(Image.open(tmp_path / "out" / SETTING / "astronaut_stylized_rocket.png"))
    assert numpy.abs(made - expected).max() < 1.5


def test_a_checkpoint_is_loaded_as_by_comfyui(comfyui, command, tmp_path, monkeypatch, capsys):
    """With a stand-in for what ComfyUI reads from the file: the built-in model and its empty prompt."""
    unet, decoder = comfyui("tools.miniature.unet"), comfyui("tools.miniature.autoencoder")
    clip = SimpleNamespace(tokenize=lambda text: {"": unet.PROMPTS[0]}[text],
                           encode_from_tokens_scheduled=unet.conditioning)
    file = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, file)
    assert main([*command, "--steps", "2"]) == 0
    built_in = {path.name: path.read_bytes() for path in (tmp_path / "out" / SETTING).iterdir()}
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr("comfy.sd.load_checkpoint_guess_config", lambda path: {
        str(file): (unet.load_trained_unet(), clip, decoder.load_autoencoder(), None)}[path])
    assert main([*command, "--steps", "2", "--checkpoint", str(file)]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / SETTING).iterdir()} == built_in
    assert main([*command, "--steps", "2"]) == 1
    assert "was begun with checkpoint model.safetensors (now None)" in capsys.readouterr().err


def test_a_checkpoint_that_comfyui_does_not_know(comfyui, command, tmp_path, capsys):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    assert main([*command, "--checkpoint", str(tmp_path / "other.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "astronaut_stylized_coffee (gamma_0.75_temperature_1.5) failed: ERROR: Could not detect model type" in out
    assert main([*command, "--checkpoint", "other.safetensors", "--out", str(tmp_path / "more")]) == 1
    assert "error: There is no file other.safetensors." in capsys.readouterr().err


def test_a_failed_picture_is_named_and_tried_once(inverted, command, tmp_path, capsys):
    assert main([*command, "--steps", "2", "--blocks", "6-12"]) == 0
    out = capsys.readouterr().out
    assert "astronaut_stylized_coffee (gamma_0.75_temperature_1.5) failed: blocks" in out
    assert "0 of 4 pictures" in out and "(failed: 4, unreadable files: 0)" in out
    assert len(inverted) == 4 and not pictures(tmp_path)


def test_a_folder_keeps_to_one_method(comfyui, command, capsys):
    assert main([*command, "--steps", "2"]) == 0
    assert main([*command, "--steps", "3"]) == 1
    assert "was begun with steps 2 (now 3). Name another folder with --out." in capsys.readouterr().err
    assert main([*command, "--steps", "2", "--built-in", "transformer"]) == 1


def test_what_is_there_is_not_made_again(inverted, command, tmp_path):
    assert main([*command, "--steps", "2"]) == 0
    before = pictures(tmp_path)
    missing = tmp_path / "out" / SETTING / "chelsea_stylized_rocket.png"
    missing.unlink()
    inverted.clear()
    assert main([*command, "--steps", "2"]) == 0
    assert len(inverted) == 2, "one content and one style"
    after = pictures(tmp_path)
    assert after.keys() == NAMES and {*before.items()} - {*after.items()} == {(missing.name, before[missing.name])}
    inverted.clear()
    assert main([*command, "--steps", "2"]) == 0 and not inverted and pictures(tmp_path) == after


@pytest.mark.slow
def test_a_cancelled_run_goes_on(command, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    runner = start([*command, "--steps", "61"], TMPDIR=str(files))
    wait_for(lambda: pictures(tmp_path))
    assert list(files.rglob("*.safetensors"))
    runner.send_signal(signal.SIGINT)
    out, _ = runner.communicate(timeout=20)
    assert runner.returncode == 130 and out.endswith("Stopped. The same command goes on from there.\n"), out
    assert not list(files.glob("styleid_*"))
    before = pictures(tmp_path)
    assert 0 < len(before) < 4
    runner = start([*command, "--steps", "61"])
    out, _ = runner.communicate(timeout=120)
    after = pictures(tmp_path)
    assert runner.returncode == 0 and after.keys() == NAMES, out
    assert before.items() <= after.items(), "a picture was made again"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_of_a_cluster_is_replaced(command, tmp_path):
    """Ray on two nodes of one processor each, on this machine: a worker is killed at work, and its picture is made all
    the same.
    """
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    files = tmp_path / "files"
    files.mkdir()
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        runner = start([*command, "--steps", "60", "--ray", cluster.address], TMPDIR=str(files))
        wait_for(lambda: len(workers()) == 2 and list(files.rglob("*.safetensors")), 120)
        killed = workers()[0]
        killed.kill()
        out, _ = runner.communicate(timeout=600)
    finally:
        cluster.shutdown()
    assert runner.returncode == 0, out
    assert "4 of 4 pictures" in out and pictures(tmp_path).keys() == NAMES
    assert not list(files.glob("styleid_*")), "inversions are left"


def workers() -> list[psutil.Process]:
    """Those at work."""
    return [process for process in psutil.process_iter(["name"])
            if (process.info["name"] or "").startswith("ray::Worker.sty")]


def test_files_tell_what_is_done(tmp_path):
    a, b = all_pictures(paths("a", "b"), paths("x"), SETTINGS[:1])
    part = a.path(tmp_path).with_name("a_stylized_x.png.part")
    part.parent.mkdir()
    part.write_bytes(b"broken")
    assert not a.path(tmp_path).exists()
    assert keep([(a, b"png"), (b, "no memory")], tmp_path) == 1
    assert a.path(tmp_path).read_bytes() == b"png" and [path.name for path in tmp_path.rglob("*.*")
                                                        if path.is_file()] == ["a_stylized_x.png"]
    assert not b.path(tmp_path).exists(), "another run tries again"


@pytest.mark.parametrize(("contents", "styles"), [([Path("a.png"), Path("a.jpg")], paths("x")),
                                                  (paths("a", "a_stylized_b"), paths("c", "b_stylized_c"))])
def test_two_pairs_with_one_name(contents, styles):
    with pytest.raises(HostError, match="would both be written to a.*png. Rename one of them"):
        all_pictures(contents, styles, SETTINGS)


def told(lpips: float, **scores) -> dict:
    """As styleid_core.metrics writes it."""
    scores = {name: {"mean": mean, "standard_error": None} for name, mean in scores.items()}
    scores |= {"lpips": {"mean": lpips, "standard_error": 0.01}}
    return {"pairs": 4, "networks": {"lpips": "AlexNet"}, "scores": scores, "per_pair": [],
            "skipped": [{"file": "a", "reason": "b"}]}


def test_the_report_of_a_sweep(tmp_path):
    write_report({setting: told(0.5 + 0.05 * i, fid=20.0 - i, artfid=31.0 - i) for i, setting in enumerate(SETTINGS)},
                 tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| gamma | temperature | pairs | LPIPS | FID | ArtFID |" in text
    assert "| 0.3 | 1 | 4 | 0.5 ± 0.01 | 20 | 31 |" in text and "- lpips: AlexNet" in text
    with (tmp_path / "report.csv").open() as file:
        table = list(csv.DictReader(file))
    *others, last = table
    assert len(others) == 3 and last["gamma"] == "0.75"
    assert last["lpips_standard_error"] == "0.01" and last["fid"] == "17.0"
    for name in ("artfid_against_gamma", "fid_against_lpips"):
        assert Image.open(tmp_path / f"{name}.png").width > 400


def test_plots_only_of_what_was_measured(tmp_path):
    write_report({SETTINGS[0]: told(0.5)}, tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_a_folder_without_pictures(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert main(["--content", str(tmp_path), "--style", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "error: There is no readable picture (.bmp, .jpeg, .jpg, .png, .webp) in" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_defaults_that_can_still_be_changed(recipe):
    arguments = ["--content", "a", "--style", "b", "--out", "c", "--recipe", recipe]
    options = vars(parse_arguments(arguments))
    assert {name: options[name] for name in RECIPES[recipe]} == RECIPES[recipe]
    assert parse_arguments([*arguments, "--steps", "7"]).steps == 7


def test_a_curve_belongs_to_the_folder(tmp_path, capsys):
    arguments = ["--content", "a", "--style", "b", "--out", "c", "--gamma-curve"]
    shape = parse_arguments([*arguments, "cosine:1:0.5"]).gamma_curve
    assert shape == ("cosine", 1.0, 0.5)
    method = Method(steps=2, gamma_curve=shape)
    check_method(tmp_path, method)
    check_method(tmp_path, method)
    with pytest.raises(HostError, match="begun with gamma_curve"):
        check_method(tmp_path, method._replace(gamma_curve=None))
    for wrong in ("round:1:0", "cosine:1", "cosine:1:x"):
        with pytest.raises(SystemExit):
            parse_arguments([*arguments, wrong])
    assert "SHAPE:START:END" in capsys.readouterr().err
