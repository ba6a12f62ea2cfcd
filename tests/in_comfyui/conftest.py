"""A real ComfyUI in this process, the pack loaded by ComfyUI's own loader, and the UNet of the golden values."""

import functools
import os
import sys
from pathlib import Path

import pytest
import torch

from tools.in_process import args

args.cpu = "STYLEID_TEST_ON_GPU" not in os.environ
torch.backends.cudnn.allow_tf32 = False  # as little on a GPU as in the golden values

# isort: split
from cases import Golden, invert_both

from tools.miniature.unet import WIDE_HEADS, load_unet
from tools.pack import load_pack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def inference_mode():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def pack():
    """pack.StyleIDSampler(...) and the other nodes, called as ComfyUI does; each gives the tuple of its outputs."""
    return load_pack()


@pytest.fixture(scope="session")
def pack_module(pack):
    """pack_module("nodes.engine.sampling"): a module of the pack as ComfyUI loaded it."""
    return lambda name: sys.modules[f"{str(ROOT).replace('.', '_x_')}.{name}"]


@pytest.fixture(autouse=True)
def nothing_remembered(pack_module):
    """Every test inverts anew, as the first run of a server."""
    pack_module("nodes.engine.reuse")._known.clear()


@pytest.fixture(scope="session")
def model():
    """Seeded, in the layout of SD 1.x. Wider heads than the golden values' are faster."""
    return load_unet(unet_config=WIDE_HEADS)


@pytest.fixture
def calls(model):
    """A list that grows with every call of `model`."""
    made = []
    handle = model.model.diffusion_model.time_embed.register_forward_hook(lambda *_: made.append(None))
    yield made
    handle.remove()


@pytest.fixture(scope="session")
def case():
    """The inputs of the golden values, for tests that compare the pack with itself, in fewer steps."""
    small = Golden(20)
    small.steps = 5
    return small


@pytest.fixture(scope="session")
def invert(pack, model, case):
    """invert(schedule): [(noise, features, sigmas) of content, of style] of the case, by the nodes; each is run once.
    """
    @functools.cache
    def with_nodes(schedule):
        with torch.inference_mode():
            return invert_both(pack, model, case, schedule)

    return with_nodes


@pytest.fixture
def inverted(invert):
    """Both inversions with the "ddim" schedule."""
    return invert("ddim")
