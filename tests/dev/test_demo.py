"""What the demo does with odd pictures, and what it says before any work about files that are of no use."""

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools.demo import run
from tools.files import checkpoint_file
from tools.host import ROOT, HostError

IMAGES = ROOT / "tools" / "demo" / "images"


def test_of_an_animation_the_first_frame_is_taken(tmp_path, capsys):
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        picture = run.first_frame(tmp_path / name)
        assert (picture.mode, picture.size, picture.getpixel((5, 5))) == ("RGB", (40, 30), (255, 0, 0))
        assert f"{name} has 2 frames" in capsys.readouterr().out


def test_sixteen_bits_keep_the_highest_eight(tmp_path):
    Image.fromarray(numpy.full((8, 8), 0x8012, numpy.uint16)).save(tmp_path / "gray.png")
    assert run.first_frame(tmp_path / "gray.png").getpixel((0, 0)) == (0x80, 0x80, 0x80)


def demo(tmp_path, capsys, content):
    status = run.main(["--base", str(tmp_path / "base"), "--content", str(content), "--style",
                       str(IMAGES / "style.jpg")])
    out, error = capsys.readouterr()
    assert "Starting ComfyUI" not in out
    return status, error.strip()


def test_no_picture(tmp_path, capsys):
    (tmp_path / "notes.png").write_text("notes")
    status, error = demo(tmp_path, capsys, tmp_path / "notes.png")
    assert status == 1 and error.startswith(f"error: {tmp_path / 'notes.png'} cannot be read as a picture: ")


def test_no_place_for_the_results(tmp_path, capsys, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(run, "OUTPUT", file)
    assert demo(tmp_path, capsys, IMAGES / "content.jpg") == (1, "error: Pictures cannot be written to the folder "
                                                                 f"{file}: File exists.")


@pytest.mark.parametrize("name", ["notes.txt", "notes.safetensors", "notes.ckpt"])
def test_no_checkpoint(tmp_path, name):
    (tmp_path / name).write_text("These are notes.")
    with pytest.raises(HostError, match=f"{name} is not a checkpoint, neither of safetensors"):
        checkpoint_file(str(tmp_path / name))


def test_checkpoints_of_every_kind(tmp_path):
    weights = {"weight": torch.ones(2)}
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "b.ckpt")
    torch.save(weights, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.ckpt", "c.pth"):
        assert checkpoint_file(str(tmp_path / name)) == tmp_path / name


def test_progress_is_one_line_that_grows(capsys):
    bar, seen = run.Bar(), ""
    for value in range(1, 100):
        bar.show(value, 99)
        new = capsys.readouterr().out
        assert "\r" not in new
        seen += new
    assert seen == f"[styleid] {'#' * run.WIDTH} 99 steps\n"


def test_side_by_side_is_bounded():
    """A part has the whole height, unless that would make it too wide."""
    sizes = [(300, 200), (20000, 20), (20, 20000), (3, 20000), (20000, 3)]
    strip = run.side_by_side([Image.new("RGB", size) for size in sizes], height=512)
    assert strip.size == (768 + 1536 + 1 + 1 + 1536 + 4 * 8, 512)
