"""Self-attention that looks at parts and not at colors: AlexNet says how alike two places of gray pictures are, of one
and of two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt
from pathlib import Path

import torch
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


def gray(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) without color, all of one brightness and contrast."""
    x = rgb_to_grayscale(pictures, num_output_channels=3)
    mean, deviation = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return 0.5 + 0.2 * (x - mean) / (deviation + 0.02)


def features_of(network: torch.nn.Sequential, pictures: torch.Tensor) -> list[torch.Tensor]:
    """What LAYERS see in the gray pictures, each (B, C, H, W)."""
    x, features = normalize_colors(gray(pictures), IMAGENET_MEAN, IMAGENET_STD), []
    for index, layer in enumerate(network):
        x = layer(x)
        if index in LAYERS:
            features.append(x)
    return features


def parts(features: list[torch.Tensor], side: int) -> torch.Tensor:
    """What is at each of side x side places: unit vectors (B, side * side, C)."""
    places = [interpolate(x, size=(side, side), mode="bilinear", antialias=True).flatten(2) for x in features]
    return torch.cat([normalize(x - x.mean(2, keepdim=True), dim=1) for x in places], 1).mT / len(LAYERS) ** 0.5


@contextmanager
def seen_queries_and_keys(unet: torch.nn.Module) -> Iterator[list[dict[str, torch.Tensor]]]:
    """Of the self-attention of each injected block, in the UNet's last call: "to_q" and "to_k", each (B, heads, tokens,
    channels).
    """
    seen, handles = [], []
    for block in BLOCKS:
        attention = unet.output_blocks[block][1].transformer_blocks[0].attn1
        seen.append({})
        for name in ("to_q", "to_k"):
            def keep(module, inputs, output, name=name, to=seen[-1], heads=attention.heads):
                to[name] = output.float().unflatten(-1, (heads, -1)).transpose(1, 2)

            handles.append(getattr(attention, name).register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def wanted_attention(seen_parts: torch.Tensor, other: int) -> torch.Tensor:
    """Logarithms (B, 1, N, N) of the attention that `seen_parts` (B, N, F) ask for, to the picture `other` places on.
    """
    return (seen_parts @ seen_parts.roll(other, 0).mT / TEMPERATURE).log_softmax(-1)[:, None]


def divergence(queries: torch.Tensor, keys: torch.Tensor, wanted: torch.Tensor, other: int) -> torch.Tensor:
    """Kullback-Leibler divergence of attention (B, heads, N, C) from what is `wanted` of it, to the picture `other`
    places on.
    """
    logits = queries @ keys.roll(other, 0).mT / queries.shape[-1] ** 0.5
    return (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1).mean()


def attention_error(seen: list[dict[str, torch.Tensor]], network: torch.nn.Sequential,
                    pictures: torch.Tensor) -> torch.Tensor:
    """How far the attention that was `seen` is from that of the pictures' parts: to the picture itself, and to another;
    mean of blocks.

    `pictures` (B, 3, H, W) in 0..1 are those of the first B samples.
    """
    errors, others = [], (0, 1)
    with torch.no_grad():
        features = features_of(network, pictures)
        parts_at = {tokens: parts(features, isqrt(tokens)) for tokens in {block["to_k"].shape[2] for block in seen}}
        wanted_at = {tokens: [wanted_attention(places, other) for other in others]
                     for tokens, places in parts_at.items()}
    for block in seen:
        queries, keys = (block[name][:len(pictures)] for name in ("to_q", "to_k"))
        errors.append(sum(divergence(queries, keys, logs, other)
                          for logs, other in zip(wanted_at[keys.shape[2]], others)))
    return torch.stack(errors).mean()
