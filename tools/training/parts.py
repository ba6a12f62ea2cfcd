"""Self-attention that looks at parts and not at colors: AlexNet says how alike two places of gray pictures are, of one
and of two.
"""

from math import isqrt
from pathlib import Path

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch.nn.functional import interpolate, normalize
from torchvision.models import alexnet
from torchvision.transforms.functional import normalize as normalize_colors
from torchvision.transforms.functional import rgb_to_grayscale

from styleid_core.metrics.networks import ALEXNET, IMAGENET_MEAN, IMAGENET_STD
from styleid_core.metrics.torch_file import weights_of

LAYERS = 4, 7, 11  # after the ReLU of the second, third and fifth convolution
TEMPERATURE = 0.15
BLOCKS = range(6, 12)  # the output blocks that StyleID injects into


def load_alexnet(folder: Path | None, device: torch.device) -> torch.nn.Sequential:
    layers = alexnet(weights=None).features[:max(LAYERS) + 1]
    with weights_of(ALEXNET.path(folder)) as weights:
        layers.load_state_dict({name: weights[f"features.{name}"] for name in layers.state_dict()})
    return layers.to(device).eval().requires_grad_(False)


def features_of(network: torch.nn.Sequential, pictures: torch.Tensor) -> list[torch.Tensor]:
    """What LAYERS see in pictures (B, 3, H, W) without color, all of one brightness and contrast: each (B, C, H, W)."""
    gray = rgb_to_grayscale(pictures, num_output_channels=3)
    mean, deviation = gray.mean((1, 2, 3), keepdim=True), gray.std((1, 2, 3), keepdim=True)
    x, features = normalize_colors(0.5 + 0.2 * (gray - mean) / (deviation + 0.02), IMAGENET_MEAN, IMAGENET_STD), []
    for index, layer in enumerate(network):
        x = layer(x)
        if index in LAYERS:
            features.append(x)
    return features


def parts(features: list[torch.Tensor], side: int) -> torch.Tensor:
    """What is at each of side x side places: unit vectors (B, side * side, C)."""
    places = [interpolate(x, size=(side, side), mode="bilinear", antialias=True).flatten(2) for x in features]
    return torch.cat([normalize(x - x.mean(2, keepdim=True), dim=1) for x in places], 1).mT / len(LAYERS) ** 0.5


def attention_seen(seen: list[tuple[torch.Tensor, torch.Tensor]]) -> dict:
    """`transformer_options` of a UNet's call, which adds to `seen` the queries and keys (B, heads, tokens, channels) of
    the self-attention of each injected block.
    """
    def attention(q, k, v, extra_options):
        heads = extra_options["n_heads"]
        seen.append(tuple(x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k)))
        return optimized_attention(q, k, v, heads)

    return {"patches_replace": {"attn1": {("output", block, 0): attention for block in BLOCKS}}}


def attention_error(seen: list[tuple[torch.Tensor, torch.Tensor]], network: torch.nn.Sequential,
                    pictures: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the attention that was `seen` from what the pictures' parts ask for: to the
    picture itself, and to another; mean of blocks.

    `pictures` (B, 3, H, W) in 0..1 are those of the first B samples.
    """
    features, error = features_of(network, pictures), 0.0
    for q, k in seen:
        queries, keys, places = q[:len(pictures)], k[:len(pictures)], parts(features, isqrt(q.shape[2]))
        for other in (0, 1):
            wanted = (places @ places.roll(other, 0).mT / TEMPERATURE).log_softmax(-1)[:, None]
            given = (queries @ keys.roll(other, 0).mT / queries.shape[-1] ** 0.5).log_softmax(-1)
            error += (wanted.exp() * (wanted - given)).sum(-1).mean()
    return error / len(seen)
