"""What python -m styleid_core.metrics says about mistakes; what can be measured beside a bad picture or pair is
measured.
"""

import json
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from styleid_core.metrics import networks
from styleid_core.metrics.__main__ import main
from styleid_core.metrics.networks import ALEXNET, load_inception, load_lpips, load_vgg19


@pytest.fixture
def table(tmp_path):
    """pairs.csv, of three pictures beside it: a, b and c."""
    rng = numpy.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=numpy.uint8)).save(tmp_path / f"{name}.png")
    path = tmp_path / "pairs.csv"
    path.write_text("content,style,stylized\na.png,b.png,c.png\nb.png,c.png,a.png\n")
    return path


def measure(table, *more, metric="histogram"):
    """The report, or what the command says on stderr before it exits with status 1."""
    out = table.parent / "report.json"
    try:
        main(["--pairs", str(table), "--metrics", metric, "--out", str(out), "--device", "cpu", *map(str, more)])
    except SystemExit as end:
        return end.code
    return json.loads(out.read_text())


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8-sig"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_tables_of_spreadsheets(table, separator, encoding):
    lines = table.read_text().replace(",", separator) + 2 * separator + "\n"
    table.write_text(lines, encoding=encoding)
    report = measure(table)
    assert report["pairs"] == 2 and not report["skipped"]


def test_a_short_row_is_named_and_the_rest_is_measured(table):
    table.write_text("content,style,stylized\n\na.png\na.png,b.png,c.png\n,b.png,c.png\n")
    report = measure(table)
    assert report["pairs"] == 1
    assert report["skipped"] == [{"file": "pairs.csv, line 3", "reason": "it has no style and no stylized"},
                                 {"file": "pairs.csv, line 5", "reason": "it has no content"}]


def test_an_open_quote(table):
    table.write_text(table.read_text() + '"a.png,b.png,c.png\n' + 9999 * "a.png,b.png,c.png\n")
    assert measure(table).startswith(f"error: {table}, line 4: ")


def test_a_table_in_another_encoding(table):
    table.write_text("content,style,stylized\n\u00e4.png,b.png,c.png\n", encoding="cp1252")
    assert "should be UTF-8" in measure(table)


@pytest.mark.parametrize(("loader", "smallest"), [(load_lpips, 31), (load_vgg19, 4)])
def test_the_smallest_picture_of_each_network(weights, loader, smallest):
    network = loader(weights, torch.device("cpu"))
    assert network.smallest == smallest
    pictures = 2 if loader is load_lpips else 1
    with torch.inference_mode():
        network.call(*[torch.rand(1, 3, smallest, 40)] * pictures)
        with pytest.raises(RuntimeError):
            network.call(*[torch.rand(1, 3, smallest - 1, 40)] * pictures)


def test_a_small_picture_is_named_and_the_rest_is_measured(table, weights):
    Image.new("RGB", (40, 20)).save(table.parent / "small.png")
    with table.open("a") as file:
        file.write("a.png,b.png,small.png\nsmall.png,b.png,c.png\n")
    report = measure(table, "--weights", weights, metric="lpips")
    assert report["pairs"] == 3
    assert report["skipped"] == [{"file": "small.png", "reason": "it has 40 x 20 pixels, and these metrics need 31 to "
                                                                 "each side"}]


def test_a_name_that_is_too_long(table):
    with table.open("a") as file:
        file.write(f"{300 * 'a'}.png,b.png,c.png\n")
    report = measure(table)
    assert report["pairs"] == 2 and [row["file"] for row in report["skipped"]] == [300 * "a" + ".png"]


def test_without_a_picture_that_can_be_measured(table):
    table.write_text("content,style,stylized\na.png,b.png,missing.png\n")
    assert measure(table).startswith("error: none of the pairs could be measured.\nmissing.png: ")


class Harmful:
    """Unpickled it would write a file, named `written`, where the process runs."""

    def __reduce__(self):
        return Path.touch, (Path("written"),)


FILES = {
    "text": lambda path: path.write_text("not found"),
    "nothing": Path.touch,
    "half a file": lambda path: (FILES["another network"](path), path.write_bytes(path.read_bytes()[:600])),
    "another network": lambda path: torch.save({"weight": torch.ones(2)}, path),
    "a tensor": lambda path: torch.save(torch.ones(2), path),
    "an object": lambda path: torch.save({"weight": Harmful()}, path),
}


@pytest.mark.parametrize("content", FILES)
@pytest.mark.parametrize(("name", "loader"), [
    (networks.ALEXNET.name, load_lpips), (networks.VGG19.name, load_vgg19), (networks.VGG19_NORMALIZED, load_vgg19),
    (networks.INCEPTION.name, load_inception), (networks.ART_INCEPTION, load_inception)])
def test_foreign_weights(tmp_path, monkeypatch, name, loader, content):
    monkeypatch.chdir(tmp_path)
    FILES[content](tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} (is broken, or no file of weights|is no file of weights|has the "
                                         "weights of another)"):
        loader(tmp_path, torch.device("cpu"))
    assert not Path("written").exists()


def test_the_command_names_foreign_weights(table, tmp_path):
    path = tmp_path / networks.ALEXNET.name
    FILES["another network"](path)
    assert measure(table, "--weights", tmp_path, metric="lpips") == f"error: {path} has the weights of another network."


def test_weights_with_flipped_bits(table, weights, tmp_path):
    """Of the right shapes, and yet NaN is all that comes out."""
    shutil.copytree(weights, tmp_path / "damaged")
    path = tmp_path / "damaged" / ALEXNET.name
    torch.save({name: tensor * torch.nan for name, tensor in torch.load(path).items()}, path)
    said = measure(table, "--weights", tmp_path / "damaged", metric="lpips")
    assert said.startswith("error: A network gives NaN for ")
    assert said.endswith("so its file of weights is damaged. Download it again.")


@pytest.mark.parametrize("content", FILES)
def test_a_broken_run_whose_state_is_broken_starts_over(table, monkeypatch, capsys, content):
    monkeypatch.chdir(table.parent)
    FILES[content](table.parent / "report.part")
    assert measure(table)["pairs"] == 2
    assert f"{table.parent / 'report.part'} is broken: measuring everything again." in capsys.readouterr().err
    assert not Path("written").exists() and not Path("report.part").exists()


@pytest.mark.parametrize("out", ["folder.json", "file/report.json", "part.json"])
def test_a_place_that_cannot_be_written_is_told_before_measuring(table, out):
    for folder in ("folder.json", "part.part"):
        (table.parent / folder).mkdir()
    (table.parent / "file").touch()
    table.unlink()
    assert "cannot be written" in measure(table, "--out", table.parent / out)


def test_a_new_place(table):
    out = table.parent / "a" / "new" / "report.csv"
    assert main(["--pairs", str(table), "--metrics", "histogram", "--out", str(out), "--device", "cpu"]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["report.csv"] and len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "meta", "hpu"])
def test_no_device(table, device, capsys):
    assert measure(table, "--device", device) == 2
    assert f"torch cannot use {device} here. Try cpu" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["missing.csv", "."])
def test_no_table(table, missing):
    assert measure(table.parent / missing).startswith("error: [Errno")
