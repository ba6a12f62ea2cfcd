"""A running ComfyUI server with the pack, driven over HTTP and its websocket."""

import asyncio
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tools.client import object_info, run_prompt
from tools.host import running_host
from tools.server import serve
from tools.workflow import find, load_prompt, use_demo_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    with serve(running_host(), base) as running:
        for name in ("content", "style"):
            shutil.copyfile(ROOT / "demo" / "images" / f"{name}.jpg", base / "input" / f"styleid_{name}.jpg")
        write_lora(base / "models" / "loras" / "style_lora.safetensors")
        yield running


def write_lora(path: Path):
    """A LoRA of rank 2 on the values of self-attention in two output blocks of the demo model, which are 32 wide."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"lora_down": (2, 32), "lora_up": (32, 2)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"lora_unet_output_blocks_{number}_1_transformer_blocks_0_attn1_to_v.{side}.weight":
               0.5 * torch.randn(shape, generator=generator) for number in (9, 10) for side, shape in shapes.items()}, path)


@pytest.fixture
def prompt(server):
    """prompt("styleid_simple"): the API prompt of an example workflow, for the demo model and small pictures."""
    info = asyncio.run(object_info(server.url))

    def load(name):
        loaded = use_demo_model(load_prompt(ROOT / "example_workflows" / f"{name}.json", info))
        for inputs in find(loaded, "ImageScaleToTotalPixels"):
            inputs |= {"megapixels": 0.0156}
        return loaded

    return load


@pytest.fixture
def run(server):
    """run(prompt, interrupt_at=None): queue a prompt and wait for its end."""
    return lambda prompt, **options: asyncio.run(run_prompt(server.url, prompt, **options))
