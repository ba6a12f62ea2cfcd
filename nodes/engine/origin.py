"""What features were made with, as a file tells it."""

import hashlib
import re

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.features import Origin
from ...styleid_core.settings import InversionSettings

VECTORS, VALUES = 16, 4  # of a model, and of each of those, that make its fingerprint
DTYPES = "float32|float16|bfloat16|float8_e4m3fn|float8_e5m2"
FINGERPRINT = re.compile(rf"(?:(?:{DTYPES})(?: -?\d[-+.e\d]*)+(?:; |$))+")


def origin_of(model: ModelPatcher, positive: list, settings: InversionSettings) -> Origin:
    return Origin(fingerprint(model), hashed([prompt for prompt, _ in positive]), settings)


def fingerprint(model: ModelPatcher) -> str:
    """Some biases and norms that MODEL samples with, wherever it lies: "dtype value value ...; dtype ...".

    Training and merging change them. LoRAs do not: they patch matrices.
    """
    vectors = {key: patches for key, patches in model.get_key_patches("diffusion_model.").items()
               if patches[0][0].ndim == 1 and patches[0][0].is_floating_point()}
    keys = sorted(vectors)[::max(len(vectors) // VECTORS, 1)]
    return "; ".join(described(*vectors[key], key=key) for key in keys)


def described(loaded: tuple, *patches: tuple, key: str) -> str:
    """One vector: `loaded` is its weight and what a layer converts that by, `patches` are those of MODEL."""
    weight, convert = loaded
    vector = convert(weight.detach().to("cpu", torch.float32, copy=True), inplace=True)
    vector = comfy.lora.calculate_weight(list(patches), vector, key)
    values = vector[::max(len(vector) // VALUES, 1)][:VALUES]
    return " ".join([str(weight.dtype).removeprefix("torch."), *(f"{value:.9g}" for value in values.tolist())])


def same_weights(one: str, other: str) -> bool:
    """Whether two fingerprints may be of the same weights, each in its precision. Older files have none."""
    if not all(map(FINGERPRINT.fullmatch, (one, other))):
        return True
    vectors, other_vectors = one.split("; "), other.split("; ")
    return len(vectors) == len(other_vectors) and all(map(same_vector, vectors, other_vectors))


def same_vector(one: str, other: str) -> bool:
    (dtype, *values), (other_dtype, *other_values) = one.split(), other.split()
    if dtype == other_dtype:
        return values == other_values
    kinds = [torch.finfo(getattr(torch, name)) for name in (dtype, other_dtype)]
    rounded, least = sum(kind.eps / 2 for kind in kinds), sum(kind.smallest_normal * kind.eps / 2 for kind in kinds)
    return len(values) == len(other_values) and all(abs(a - b) <= least + abs(a) * rounded for a, b in zip(
        map(float, values), map(float, other_values)))


def hashed(tensors: list[torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
