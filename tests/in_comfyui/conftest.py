"""A real ComfyUI in this process, the pack loaded by ComfyUI's own loader, and the UNet of the golden values."""

import functools
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tools.in_process import args

args.cpu = "STYLEID_TEST_ON_GPU" not in os.environ
torch.backends.cudnn.allow_tf32 = False  # as little on a GPU as in the golden values

# isort: split
from demo import transfer
from demo.styleid_demo.unet import load_unet
from tools.pack import load_pack

ROOT = Path(__file__).resolve().parents[2]
SCALE_FACTOR = 0.18215  # of SD 1.x latents


class Golden(dict):
    """Tensors of one golden file, its metadata, and the inputs of the case as ComfyUI passes them."""

    def __init__(self, steps: int):
        with safe_open(ROOT / "tests" / "golden" / f"reference_{steps}_steps.safetensors", "pt") as file:
            super().__init__({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
            metadata = file.metadata()
        self.steps = steps
        self.timesteps = [int(t) for t in metadata["timesteps"].split(",")]
        self.variants = json.loads(metadata["variants"])
        self.positive = [[self["context"], {}]]
        self.content, self.style = ({"samples": self[f"{name}.latent"] / SCALE_FACTOR} for name in ("content", "style"))


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
    """pack_module("nodes.sampling"): a module of the pack as ComfyUI loaded it."""
    return lambda name: sys.modules[f"{str(ROOT).replace('.', '_x_')}.{name}"]


@pytest.fixture(scope="session")
def model():
    return load_unet(weight_seed=0)


@pytest.fixture
def calls(model):
    """A list that grows with every call of `model`."""
    made = []
    handle = model.model.diffusion_model.time_embed.register_forward_hook(lambda *_: made.append(None))
    yield made
    handle.remove()


@pytest.fixture(scope="session")
def to_latent():
    """LATENT of a latent z in the model's scale."""
    return lambda z: {"samples": z / SCALE_FACTOR}


@pytest.fixture(scope="session")
def from_latent():
    return lambda latent: latent["samples"] * SCALE_FACTOR


@pytest.fixture(params=[50, 20], ids=["50_steps", "20_steps"])
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="session")
def case():
    """The inputs of the 20-step case, for tests that compare the pack with itself."""
    return Golden(20)


@pytest.fixture(scope="session")
def invert(pack, model):
    """invert(case, schedule, layers): [(noise, features, sigmas) of content, of style], by the nodes; each is run once."""
    @functools.cache
    def with_nodes(steps, schedule, layers):
        case = Golden(steps)
        with torch.inference_mode():
            [recording] = pack.CaptureSelfAttention(model=model, layers=layers)
            return [pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=steps, schedule=schedule)
                    for latent in (case.content, case.style)]

    return lambda case, schedule, layers="6-11": with_nodes(case.steps, schedule, layers)


@pytest.fixture
def inverted(invert, case):
    """Both inversions of the 20-step case with the "ddim" schedule."""
    return invert(case, "ddim")


@pytest.fixture(scope="session")
def sample_custom():
    """SamplerCustom of ComfyUI with its noise off; gives the LATENT."""
    return transfer.sample_custom


@pytest.fixture(scope="session")
def size():
    """size(kept): bytes of the tensors in dicts, lists and tuples."""
    return transfer.size


@pytest.fixture(scope="session")
def paper_attention():
    """paper_attention(model, content_features, style_features, gamma, temperature): what InjectStyleKV promises, gone another way.

    A clone with attn1_replace on projected q, k and v, where eq. 5-7 of the paper and the softmax are written out.
    """
    def patch(model, content_features, style_features, gamma, temperature):
        m = model.clone()
        for index, (side, number, transformer) in enumerate(style_features.blocks):
            [spatial] = (layer for layer in model.model.diffusion_model.output_blocks[number] if hasattr(layer, "transformer_blocks"))
            attn1 = spatial.transformer_blocks[transformer].attn1

            def replace(q, k, v, extra_options, index=index, attn1=attn1):
                step = int((torch.tensor(style_features.sigmas) / extra_options["sigmas"][0]).log().abs().argmin())
                n_content, n_style = content_features.steps[step][index], style_features.steps[step][index]
                q_content, k, v = attn1.to_q(n_content), attn1.to_k(n_style), attn1.to_v(n_style)
                q = temperature * (gamma * q_content + (1 - gamma) * q)
                q, k, v = (t.unflatten(-1, (attn1.heads, -1)).movedim(-2, -3) for t in (q, k, v))
                return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).movedim(-3, -2).flatten(-2)

            m.set_model_attn1_replace(replace, side, number, transformer)
        return m

    return patch
