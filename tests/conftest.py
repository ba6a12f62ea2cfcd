"""Shared by the tiers: core (plain torch), in_comfyui (ComfyUI's classes in this process), over_http and in_browser (a
server).
"""

import math
import os
import re
import shutil
import sys
import zlib
from collections import defaultdict
from pathlib import Path

import numpy
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FULL_TIERS = ("metrics", "over_http", "in_browser", "dev")

# Last, because nodes/ here would otherwise hide ComfyUI's nodes.py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT] + [str(ROOT)]

from tools.demo.lora import write_lora  # noqa: E402
from tools.host import end_as_by_ctrl_c, running_host  # noqa: E402
from tools.server import serve  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of two processes on two cores would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"  # of servers and commands too
    torch.set_num_threads(1)

def recipe(name: str, shape: torch.Size) -> torch.Tensor:
    """The golden file's weights (tests/golden/README.md)."""
    r = numpy.random.Generator(numpy.random.PCG64(zlib.crc32(name.encode()))).standard_normal(tuple(shape))
    if len(shape) == 1:
        return torch.tensor(0.05 * r, dtype=torch.float32)
    gain = 8 if name == "features.10.weight" else 1
    return torch.tensor(gain * r * math.sqrt(2 / math.prod(shape[1:])), dtype=torch.float32)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder of the metrics' networks in their real layouts with seeded weights, as torch hub keeps them."""
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    models, networks = (pytest.importorskip(name) for name in ("torchvision.models", "styleid_core.metrics.networks"))
    folder = tmp_path_factory.mktemp("hub") / "checkpoints"
    folder.mkdir()
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in models.vgg19().features[:12].state_dict().items()}
    torch.save({f"features.{name}": recipe(f"features.{name}", shape) for name, shape in shapes.items()},
               folder / networks.VGG19.name)
    torch.manual_seed(0)
    trunk = models.alexnet().features.state_dict()
    torch.save({f"features.{name}": value for name, value in trunk.items()}, folder / networks.ALEXNET.name)

    class Untrained(inception.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    torch.save(Untrained("", ["2048"], str(folder / networks.ALEXNET.name)).state_dict(),
               folder / networks.INCEPTION.name)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    with serve(running_host(), base) as running:
        for name in ("content", "style"):
            shutil.copyfile(ROOT / "tools" / "demo" / "images" / f"{name}.jpg", base / "input" / f"styleid_{name}.jpg")
        write_lora(base / "models" / "loras" / "style_lora.safetensors")
        yield running


@pytest.fixture
def measured(record_property):
    """measured(name, value, at_least=..., or at_most=...): holds a value to its limit and adds a line to the table at
    the end.
    """
    def check(name, value, at_least=float("-inf"), at_most=float("inf")):
        limits = [f"{words} {limit:.3g}" for words, limit in (("at least", at_least), ("at most", at_most))
                  if abs(limit) < float("inf")]
        limit = " and ".join(limits) or "no limit"
        record_property("measured", (name, value, limit))
        assert at_least <= value <= at_most, f"{name}: {value:.4g} is not {limit}"

    return check


def pytest_configure():
    end_as_by_ctrl_c()


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the markers
def pytest_collection_modifyitems(items):
    """Marks as `full` whole tiers, and of a test with many variants all but the first and the last."""
    variants = defaultdict(list)
    for item in items:
        variants[item.nodeid.partition("[")[0]].append(item)
        if item.path.parent.name in FULL_TIERS:
            item.add_marker(pytest.mark.full)
    for alike in variants.values():
        for item in alike[1:-1]:
            item.add_marker(pytest.mark.full)


def write_company(reports: list, page: Path):
    """The page of what composes and what is refused, from the tests that passed and tell it by the property "beside".
    """
    rows = sorted(set(properties(reports, "beside")), key=str)
    version = re.search(r'"(.+)"', (running_host().comfyui / "comfyui_version.py").read_text(encoding="utf-8"))[1]
    lines = ["# Beside other nodes and packs", "",
             f"Measured on ComfyUI {version} by `python dev.py test --company --packs DIR`, with small seeded models "
             "in SD 1.x's layout. *Composes*: within 1e-4 of the paper's formulas on the model that has the other "
             "node.", "",
             "| pack | node | beside the injection |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    page.write_text("\n".join(lines), encoding="utf-8")


def properties(reports: list, kind: str) -> list[tuple]:
    """What tests told by `record_property`, also those in another process."""
    return [tuple(value) for report in reports for name, value in getattr(report, "user_properties", ())
            if name == kind]


def pytest_terminal_summary(terminalreporter):
    if "STYLEID_COMPANY_PAGE" in os.environ:
        write_company(terminalreporter.stats.get("passed", []), Path(os.environ["STYLEID_COMPANY_PAGE"]))
    reports = [report for outcome in ("passed", "failed", "xfailed")
               for report in terminalreporter.stats.get(outcome, [])]
    if errors := properties(reports, "parity"):
        name, error, limit = max(errors, key=lambda each: each[1] / each[2])
        terminalreporter.section("golden parity")
        terminalreporter.line(f"The worst of {len(errors)} relative errors against the authors' code: {error:.1e} "
                              f"(at most {limit:.0e}), {name}")
    if values := properties(reports, "measured"):
        terminalreporter.section("the trained models on pictures they never saw")
        for name, value, limit in values:
            terminalreporter.line(f"{name:<75} {value:8.3f}   ({limit})")
