"""What the tests in ComfyUI have in common: the golden case, its scale, and ways to compare."""

import json

import torch
from safetensors import safe_open

from tools.host import ROOT

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
        self.content, self.style = (to_latent(self[f"{name}.latent"]) for name in ("content", "style"))


def to_latent(z: torch.Tensor) -> dict:
    """LATENT of a latent z in the model's scale."""
    return {"samples": z / SCALE_FACTOR}


def from_latent(latent: dict) -> torch.Tensor:
    return latent["samples"] * SCALE_FACTOR


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.cpu(), b.cpu()
    return ((a - b).norm() / b.norm()).item()


def free_memory(count: float):
    """Stands for comfy.model_management.get_free_memory."""
    return lambda device=None, torch_free_too=False: (count, count) if torch_free_too else count


def with_steps(features, steps: list):
    """Captured features with other tensors in place of theirs."""
    return features._replace(source=features.source._replace(steps=steps))


def invert_both(pack, model, case, schedule: str, content: dict | None = None, style: dict | None = None,
                blocks: str = "6-11", steps: int | None = None) -> list[tuple]:
    """[(noise, features, sigmas) of content, of style], by the nodes; of the case's latents and in its steps unless
    others are given.
    """
    [recording] = pack.CaptureSelfAttention(model=model, blocks=blocks)
    return [pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=steps or case.steps,
                            schedule=schedule)
            for latent in (content or case.content, style or case.style)]


def all_transfers(transfer, contents: torch.Tensor, styles: torch.Tensor):
    """run(**options): (decoded (S, B, 3, H, W), latents (S, B, C, h, w)) of every content in every style; each is run
    once.
    """
    with torch.inference_mode():
        content, inverted = transfer.invert(contents), [transfer.invert(style[None]) for style in styles]
    known = {}

    def run(**options):
        key = tuple(sorted(options.items()))
        if key not in known:
            latents = [transfer.stylize(content, style, **options) for style in inverted]
            decoded = torch.stack([transfer.decode(z).movedim(-1, 1) for z in latents])
            known[key] = decoded, torch.stack([z["samples"] for z in latents])
        return known[key]

    return run
