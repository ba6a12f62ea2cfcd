"""The evaluation's runner without a server: sharing of pairs, what a folder tells, tables and plots."""

import asyncio
import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from tools.host import HostError
from tools.protocol.__main__ import main, parse_arguments
from tools.protocol.graph import make_prompt
from tools.protocol.method import Method, Pair, Results, Setting, all_pairs, check_method
from tools.protocol.plots import draw_plots
from tools.protocol.recipes import RECIPES
from tools.protocol.report import read_row, write_csv, write_markdown
from tools.protocol.servers import Queue

SETTINGS = [Setting(gamma, temperature) for gamma in (0.3, 0.75) for temperature in (1.0, 1.5)]


def paths(*names: str) -> list[Path]:
    return [Path(f"{name}.png") for name in names]


def write_report(folder: Path, lpips: float, **scores):
    folder.mkdir(parents=True)
    scores = {name: {"mean": mean, "standard_error": None} for name, mean in scores.items()}
    scores |= {"lpips": {"mean": lpips, "standard_error": 0.01}}
    report = {"pairs": 4, "networks": {"lpips": "AlexNet"}, "scores": scores, "per_pair": [],
              "skipped": [{"file": "a", "reason": "b"}]}
    (folder / "report.json").write_text(json.dumps(report))


def test_workers_keep_to_their_style_and_get_what_another_lost():
    async def share():
        queue = Queue(all_pairs(paths("a", "b", "c"), paths("x", "y")))
        first, second = await queue.take(None), await queue.take(None)
        assert first.style != second.style, "the second takes the style with most pairs left"
        assert (await queue.take(second.style)).style == second.style
        taken = [first, *[await queue.take(first.style) for _ in range(3)]]
        waits = asyncio.create_task(queue.take(None))
        await asyncio.sleep(0)
        assert not waits.done(), "a pair may still come back"
        await queue.settle(first, done=False)
        assert await waits == first
        for pair in [*taken, second, second]:
            await queue.settle(pair, done=True)
        assert await queue.take(None) is None

    asyncio.run(asyncio.wait_for(share(), 5))


def test_files_tell_what_is_done(tmp_path):
    pairs = all_pairs(paths("a", "b"), paths("x"))
    results = Results(tmp_path, pairs, SETTINGS[:1])
    (tmp_path / SETTINGS[0].name / "a_stylized_x.png.part").write_bytes(b"broken")
    assert results.left == pairs
    results.keep(pairs[0], SETTINGS[0], b"png")
    results.keep(pairs[1], SETTINGS[0], "no memory")
    assert results.left == [] and results.done == 1
    assert Results(tmp_path, pairs, SETTINGS[:1]).left == [Pair(Path("b.png"),
                                                                Path("x.png"))], "another run tries again"


@pytest.mark.parametrize(("contents", "styles"), [([Path("a.png"), Path("a.jpg")], paths("x")),
                                                  (paths("a", "a_stylized_b"), paths("c", "b_stylized_c"))])
def test_two_pairs_with_one_name(contents, styles):
    with pytest.raises(HostError, match="would both be written to a.*png. Rename one of them"):
        all_pairs(contents, styles)


def test_the_report_of_a_sweep(tmp_path):
    for i, setting in enumerate(SETTINGS):
        write_report(tmp_path / setting.name, 0.5 + 0.05 * i, fid=20.0 - i, artfid=31.0 - i)
    rows = [read_row(tmp_path / setting.name, setting) for setting in SETTINGS]
    write_markdown(rows, tmp_path / "report.md")
    write_csv(rows, tmp_path / "report.csv")
    draw_plots(rows, tmp_path)
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
    write_report(tmp_path / SETTINGS[0].name, 0.5)
    draw_plots([read_row(tmp_path / SETTINGS[0].name, SETTINGS[0])], tmp_path)
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


def test_a_curve_reaches_the_injection_and_belongs_to_the_folder(tmp_path, capsys):
    arguments = ["--content", "a", "--style", "b", "--out", "c", "--gamma-curve"]
    shape = parse_arguments([*arguments, "cosine:1:0.5"]).gamma_curve
    method = Method(None, 64, 2, "auto", "official", shape)
    prompt = make_prompt(method, "a.png", "b.png", SETTINGS[0])
    [source, _] = prompt["inject"]["inputs"]["gamma_curve"]
    assert prompt[source]["inputs"] == {"shape": "cosine", "start": 1.0, "end": 0.5}
    check_method(tmp_path, method)
    check_method(tmp_path, method)
    with pytest.raises(HostError, match="begun with gamma_curve"):
        check_method(tmp_path, method._replace(gamma_curve=None))
    for wrong in ("round:1:0", "cosine:1", "cosine:1:x"):
        with pytest.raises(SystemExit):
            parse_arguments([*arguments, wrong])
    assert "SHAPE:START:END" in capsys.readouterr().err
