"""Files that Hypothesis damages: the command measures them, names what it left out, or ends with a sentence."""

import json
import math

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from styleid_core.metrics.__main__ import main

TABLE = "content,style,stylized\na.png,b.png,c.png\nb.png,c.png,a.png\n"


@pytest.fixture
def folder(tmp_path):
    rng = numpy.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=numpy.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """`data` with a part replaced by other bytes, or cut off behind it."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, len(data)))
    other = draw(st.binary(max_size=9))
    return data[:start] + other + draw(st.sampled_from((data[end:], b"")))


def measure(folder) -> dict | str:
    """The report, or the sentence."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    try:
        main(["--pairs", str(folder / "pairs.csv"), "--metrics", "histogram", "--out", str(report), "--device", "cpu"])
    except SystemExit as end:
        return end.code
    return json.loads(report.read_text())


@given(st.data())
@settings(max_examples=60, deadline=None, database=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_measured_named_or_refused(folder, data):
    picture = folder / "a.png"
    whole = picture.read_bytes()
    table = data.draw(st.just(TABLE.encode()) | damaged(TABLE.encode()) | st.text().map(str.encode))
    try:
        (folder / "pairs.csv").write_bytes(table)
        picture.write_bytes(data.draw(st.just(whole) | damaged(whole)))
        result = measure(folder)
    finally:
        picture.write_bytes(whole)
    if isinstance(result, str):
        assert result.startswith("error: ") and len(result.split()) > 3
        return
    values = [value for row in result["per_pair"] for value in row.values() if isinstance(value, float)]
    assert all(map(math.isfinite, values))
    if table == TABLE.encode():
        left_out = {row["file"] for row in result["skipped"]}
        assert result["pairs"] == 2 or left_out == {"a.png"}
