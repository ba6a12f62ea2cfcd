"""StyleIDScores gives what the command gives, on networks with seeded weights in torch hub's cache."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCORES = ("cfsd", "lpips", "histogram")


@pytest.fixture
def hub(weights):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(weights.parent))
    yield
    torch.hub.set_dir(before)


@pytest.fixture
def pictures():
    """Content, style and stylized IMAGEs of 8 bits in one size: two contents, one style."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (count, 64, 80, 3), generator=generator) / 255 for count in (2, 1, 2)]


@pytest.mark.full
def test_the_node_gives_what_the_command_gives(pack, hub, weights, pictures, tmp_path):
    for folder, batch in zip(("content", "style", "stylized"), pictures):
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(batch):
            name = f"{i}_stylized_0" if folder == "stylized" else f"{i}"
            Image.fromarray((picture * 255).round().byte().numpy()).save(tmp_path / folder / f"{name}.png")
    arguments = [f"--{name}={tmp_path / name}" for name in ("content", "style", "stylized")]
    subprocess.run([sys.executable, "-m", "styleid_core.metrics", *arguments, f"--weights={weights}", "--metrics",
                    *SCORES, f"--out={tmp_path / 'report.json'}"], cwd=ROOT, check=True, capture_output=True)
    expected = json.loads((tmp_path / "report.json").read_text())["scores"]

    *values, text = pack.StyleIDScores(content=pictures[0], style=pictures[1], stylized=pictures[2])
    assert values == [pytest.approx(expected[name]["mean"], rel=1e-4) for name in SCORES]
    assert all(f"{value:.4f}" in text for value in values)


def test_pictures_of_other_sizes_are_fitted(pack, hub, pictures):
    content, style, stylized = pictures
    wide = torch.nn.functional.pad(content, (0, 0, 8, 8))  # black to the left and right, which is cut off again
    inputs = dict(style=style, stylized=stylized)
    assert pack.StyleIDScores(content=wide, **inputs) == pack.StyleIDScores(content=content, **inputs)
    with pytest.raises(ValueError, match="2 stylized pictures and 3 in style"):
        pack.StyleIDScores(content=content, style=style.repeat(3, 1, 1, 1), stylized=stylized)


def test_without_weights_it_says_what_is_missing(pack, pictures, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ValueError,
                       match=r"vgg19-dcbb9e9d.pth \(575 MB\) could not be downloaded \(no network\). Put it into"):
        pack.StyleIDScores(content=pictures[0], style=pictures[1], stylized=pictures[2])


def test_a_picture_that_is_too_small(pack, hub, pictures):
    small = [picture[:, :30] for picture in pictures]
    with pytest.raises(ValueError, match="has 80 x 30 pixels, and the networks need 31 to each side. Give a larger "
                                         "one"):
        pack.StyleIDScores(**dict(zip(("content", "style", "stylized"), small)))


def test_transparency_is_left_out(pack, hub, pictures):
    opaque = [torch.cat((picture, torch.ones_like(picture[..., :1])), -1) for picture in pictures]
    expected, scores = (pack.StyleIDScores(**dict(zip(("content", "style", "stylized"), each)))
                        for each in (pictures, opaque))
    assert scores == expected


def test_pictures_that_are_none(pack, hub, pictures):
    content, style, stylized = pictures
    for broken in (stylized / 0, stylized[..., :1], stylized[:0]):
        with pytest.raises(ValueError, match="The pictures in stylized have NaN, or not the three channels"):
            pack.StyleIDScores(content=content, style=style, stylized=broken)
