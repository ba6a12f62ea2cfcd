"""What python -m styleid_core.evaluation says about mistakes; what can be measured beside a bad picture or pair is measured."""

import json

import numpy
import pytest
from PIL import Image

from styleid_core.evaluation.__main__ import main


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
