"""The metrics against the authors' values, closed forms and the libraries called directly; the command against broken
runs and files.

Networks have the real layouts and seeded weights, written as the files that a user would download.
"""

import json
import math
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import lpips
import numpy
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from styleid_core.metrics import cfsd as cfsd_module
from styleid_core.metrics.cfsd import cfsd, similarity_divergence
from styleid_core.metrics.histogram import hellinger, rgb_uv_histogram
from styleid_core.metrics.networks import ALEXNET, MissingError, frechet_distance, load_lpips, load_vgg19

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden():
    return load_file(ROOT / "tests" / "golden" / "reference_cfsd.safetensors")


@pytest.mark.parametrize("case", ["0", "1", "2"])
@pytest.mark.parametrize("block", [1, 1000, cfsd_module.BLOCK])
def test_cfsd_is_the_authors(golden, weights, monkeypatch, case, block):
    monkeypatch.setattr(similarity_divergence, "__defaults__", (block,))
    network = load_vgg19(weights, CPU)
    with torch.inference_mode():
        result = cfsd(golden[f"{case}.content"][0], golden[f"{case}.stylized"][0], network.call)
    assert result.sum == pytest.approx(golden[f"{case}.cfsd"].item(), rel=1e-5)
    height, width = golden[f"{case}.content"].shape[2:]
    assert result.mean == pytest.approx(result.sum / (height // 4 * (width // 4)), rel=1e-9)


@pytest.mark.slow
def test_cfsd_of_512_pixels_stays_below_half_a_gigabyte():
    """16384 positions: a whole similarity matrix would be 1 GB."""
    features = torch.randn(2, 16, 128 * 128, generator=torch.Generator().manual_seed(0))
    similarity_divergence(*features[:, :, :512])
    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.005)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    value = similarity_divergence(*features)
    done.set()
    watcher.join()
    assert value > 0
    assert 0.1e9 < peak[0] - before < 0.5e9


def test_lpips_is_the_packages(weights):
    torch.manual_seed(1)
    a, b = torch.rand(2, 2, 3, 96, 96)
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = torch.load(weights / ALEXNET.name)
    for index, layer in ((int(key.split(".")[1]), layer) for key, layer in reference.net.named_modules() if "." in key):
        if f"features.{index}.weight" in trunk:
            layer.weight.data, layer.bias.data = trunk[f"features.{index}.weight"], trunk[f"features.{index}.bias"]
    with torch.inference_mode():
        expected = reference.eval()(a * 2 - 1, b * 2 - 1).flatten()
        distances = load_lpips(weights, CPU).call(a, b)
    assert torch.allclose(distances, expected, rtol=1e-6) and (distances > 0).all()
    assert load_lpips(weights, CPU).call(a, a).abs().max() == 0


def gaussian(mean: list[float], deviations: list[float]) -> torch.Tensor:
    """Features whose sample mean and covariance are exactly those of that Gaussian: corners of a box."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * len(mean))
    corners *= math.sqrt((len(corners) - 1) / len(corners))
    return corners * torch.tensor(deviations) + torch.tensor(mean)


def test_frechet_distance_of_known_gaussians():
    a, b = gaussian([0, 1, 2], [1.0, 2.0, 3.0]), gaussian([1, 1, 0], [2.0, 2.0, 0.5])
    assert frechet_distance(a, b) == pytest.approx((1 + 0 + 4) + (1 + 0 + 2.5 ** 2))
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-6)


def written_out(picture: torch.Tensor) -> torch.Tensor:
    """The RGB-uv histogram of HistoGAN, pixel by pixel."""
    bins = torch.linspace(-3, 3, 64)
    total = torch.zeros(3, 64, 64)
    for pixel in picture.flatten(1).T + 1e-6:
        for channel in range(3):
            u, v = ((pixel[channel] / pixel[other]).log() for other in range(3) if other != channel)
            near_u, near_v = (1 / (1 + ((value - bins) / 0.02) ** 2) for value in (u, v))
            total[channel] += pixel.norm() * near_u[:, None] * near_v[None]
    return total / total.sum()


def test_histogram_is_histogans():
    torch.manual_seed(2)
    a, b = torch.rand(2, 3, 6, 8)
    histogram = rgb_uv_histogram(a)
    assert torch.allclose(histogram, written_out(a), atol=1e-7) and histogram.sum() == pytest.approx(1)
    flipped = rgb_uv_histogram(a.flip(1, 2))
    assert hellinger(histogram, flipped) == pytest.approx(0, abs=1e-4), "where a pixel is makes no difference"
    affinity = (histogram * rgb_uv_histogram(b)).sqrt().sum().item()
    assert hellinger(histogram, rgb_uv_histogram(b)) == pytest.approx(math.sqrt(1 - affinity), rel=1e-4)
    red, blue = (torch.tensor(color).view(3, 1, 1).expand(3, 4, 4) for color in ([1.0, 0, 0], [0, 0, 1.0]))
    assert hellinger(rgb_uv_histogram(red), rgb_uv_histogram(blue)) > hellinger(histogram, rgb_uv_histogram(b))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(MissingError, match=r"vgg19-dcbb9e9d.pth \(575 MB\) is not in .*Download it there from https"):
        load_vgg19(tmp_path, CPU)


@pytest.fixture
def folders(tmp_path):
    """Two contents, three styles, and a stylized picture of each pair, with noise of a seed as pixels."""
    rng = numpy.random.default_rng(0)

    def write(folder, name, size):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=numpy.uint8)).save(tmp_path / folder / f"{name}.png")

    for name in ("a", "b"):
        write("content", name, (96, 128))
    for name in ("x", "y", "z"):
        write("style", name, (80, 80))
        for content in ("a", "b"):
            write("stylized", f"{content}_stylized_{name}", (80, 96) if name == "x" else (80, 80))
    return tmp_path


def command(folders, weights, *more, **kwargs):
    arguments = [f"--{name}={folders / name}" for name in ("content", "style", "stylized")]
    return subprocess.run([sys.executable, "-m", "styleid_core.metrics", *arguments, f"--weights={weights}",
                           f"--out={folders / 'report.json'}", *more], cwd=ROOT, capture_output=True, text=True,
                          **kwargs)


def test_the_command_over_folders(folders, weights):
    done = command(folders, weights)
    assert done.returncode == 0, done.stderr
    report = json.loads((folders / "report.json").read_text())
    scores = report["scores"]
    assert report["pairs"] == 6 and not report["skipped"] and not (folders / "report.part").exists()
    assert scores["artfid"]["mean"] == pytest.approx((1 + scores["lpips"]["mean"]) * (1 + scores["fid"]["mean"]))
    values = [row["lpips"] for row in report["per_pair"]]
    assert scores["lpips"]["mean"] == pytest.approx(numpy.mean(values))
    assert scores["lpips"]["standard_error"] == pytest.approx(numpy.std(values, ddof=1) / math.sqrt(6))
    assert "| ArtFID |" in done.stdout


@pytest.mark.slow
def test_equal_folders_are_at_no_distance(folders, weights):
    for style in "xyz":
        for content in "ab":
            painting = (folders / "style" / f"{style}.png").read_bytes()
            (folders / "stylized" / f"{content}_stylized_{style}.png").write_bytes(painting)
    assert command(folders, weights, "--metrics", "fid", "histogram").returncode == 0
    scores = json.loads((folders / "report.json").read_text())["scores"]
    assert scores["fid"]["mean"] == pytest.approx(0, abs=1e-4) and scores["histogram"]["mean"] == 0


@pytest.mark.slow
def test_a_broken_picture_is_named_and_the_rest_is_measured(folders, weights):
    (folders / "stylized" / "a_stylized_y.png").write_bytes(b"no picture")
    (folders / "content" / "b.png").write_bytes((folders / "content" / "b.png").read_bytes()[:500])
    done = command(folders, weights, "--metrics", "lpips")
    report = json.loads((folders / "report.json").read_text())
    assert done.returncode == 0 and report["pairs"] == 2
    assert {row["file"] for row in report["skipped"]} == {"a_stylized_y.png", "b.png"} and len(report["skipped"]) == 4
    assert "Left out: b.png" in done.stdout


@pytest.mark.slow
def test_a_png_with_a_broken_chunk_is_named_too(folders, weights):
    """Pillow calls it a SyntaxError, where other broken files are an OSError."""
    path = folders / "stylized" / "a_stylized_y.png"
    data = path.read_bytes()
    start = data.index(b"IDAT")
    first = data[start:start + 1004]  # the chunk's name and 1000 bytes, then its checksum, and no chunk's name after it
    path.write_bytes(data[:start - 4] + struct.pack(">I", 1000) + first + struct.pack(">I", zlib.crc32(first))
                     + bytes(20))
    with pytest.raises(SyntaxError), Image.open(path) as image:
        image.load()
    assert command(folders, weights, "--metrics", "histogram").returncode == 0
    report = json.loads((folders / "report.json").read_text())
    assert report["pairs"] == 5 and [row["file"] for row in report["skipped"]] == ["a_stylized_y.png"]


@pytest.mark.slow
def test_wrong_names_and_missing_weights_stop_with_a_sentence(folders, weights, tmp_path):
    done = command(folders, tmp_path, "--metrics", "lpips")
    assert done.returncode == 1 and "alexnet-owt-7be5be79.pth (244 MB) is not in" in done.stderr
    assert "Traceback" not in done.stderr
    (folders / "style" / "y.png").unlink()
    done = command(folders, weights, "--metrics", "histogram")
    assert done.returncode == 1 and "names a picture y, and there is none in" in done.stderr


@pytest.mark.slow
def test_a_table_of_pairs(folders, weights, tmp_path):
    (folders / "pairs.csv").write_text("content,style,stylized\ncontent/a.png,style/x.png,stylized/b_stylized_y.png\n")
    done = subprocess.run([sys.executable, "-m", "styleid_core.metrics", "--pairs", folders / "pairs.csv", "--metrics",
                           "histogram", "--out", folders / "table.csv", folders / "table.md"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folders / "table.csv").read_text().splitlines()[0] == "content,style,stylized,histogram"
    assert "| RGB-uv histogram distance |" in (folders / "table.md").read_text()
