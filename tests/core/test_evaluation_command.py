"""What python -m styleid_core.evaluation says about mistakes; what can be measured beside a bad picture or pair is measured."""

import json

import numpy
import pytest
import torch
from PIL import Image

from styleid_core.evaluation.__main__ import main
from styleid_core.evaluation.networks import load_lpips, load_vgg19


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
    assert report["skipped"] == [{"file": "small.png", "reason": "it has 40 x 20 pixels, and these metrics need 31 to each side"}]


def test_a_name_that_is_too_long(table):
    with table.open("a") as file:
        file.write(f"{300 * 'a'}.png,b.png,c.png\n")
    report = measure(table)
    assert report["pairs"] == 2 and [row["file"] for row in report["skipped"]] == [300 * "a" + ".png"]


def test_without_a_picture_that_can_be_measured(table):
    table.write_text("content,style,stylized\na.png,b.png,missing.png\n")
    assert measure(table).startswith("error: none of the pairs could be measured.\nmissing.png: ")
