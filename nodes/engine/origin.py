"""What features were made with, as a file tells it."""

import hashlib

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.features import Origin

SAMPLES = 16  # tensors of a model that are looked at


def origin_of(model: ModelPatcher, positive: list, schedule: str, steps: int, denoise: float, refine: int,
              inversion: str) -> Origin:
    return Origin(fingerprint(model), hashed([prompt for prompt, _ in positive]), schedule, str(steps), f"{denoise:g}", str(refine),
                  inversion)


def fingerprint(model: ModelPatcher) -> str:
    """Of some biases and norms: every training changes them, LoRAs leave them alone, and in half precision they are the same."""
    vectors = [parameter for _, parameter in sorted(model.model.diffusion_model.named_parameters()) if parameter.ndim == 1]
    return hashed(vectors[::max(len(vectors) // SAMPLES, 1)])


def hashed(tensors: list[torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
