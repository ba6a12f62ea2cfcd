"""The trained networks behind the metrics, with the weights that their libraries use. Nothing is ever left at random.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch
from torch import nn
from torchvision.models import inception_v3
from torchvision.models.vgg import cfgs, make_layers

from .torch_file import weights_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MissingError(Exception):
    """Weights or a package that a metric needs; the message says which, and where they belong."""


class WeightsFile(NamedTuple):
    name: str
    megabytes: int
    url: str

    def path(self, folder: Path | None) -> Path:
        """In `folder`, or in torch hub's cache, where it is downloaded when it is not there; MissingError."""
        path = (folder or Path(torch.hub.get_dir()) / "checkpoints") / self.name
        if path.exists():
            return path
        if folder:
            raise MissingError(f"{self.name} ({self.megabytes} MB) is not in {folder}. Download it there from "
                               f"{self.url}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(self.url, str(path))
        except (URLError, TimeoutError, ConnectionError) as error:
            raise MissingError(f"{self.name} ({self.megabytes} MB) could not be downloaded ({error}). "
                               f"Put it into {path.parent}, from {self.url}") from error
        return path


PYTORCH = "https://download.pytorch.org/models"
VGG19 = WeightsFile("vgg19-dcbb9e9d.pth", 575, f"{PYTORCH}/vgg19-dcbb9e9d.pth")
VGG19_NORMALIZED = "vgg_normalized.pth"  # of AdaIN (Huang & Belongie 2017): every channel's mean activation is 1
ALEXNET = WeightsFile("alexnet-owt-7be5be79.pth", 244, f"{PYTORCH}/alexnet-owt-7be5be79.pth")
INCEPTION = WeightsFile(
    "weights-inception-2015-12-05-6726825d.pth", 96,
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth")
ART_INCEPTION = "art_inception.pth"  # of ArtFID (Wright & Ommer 2022)


class Network(NamedTuple):
    """`name` for the report, and `call` for pictures (B, 3, H, W) in 0..1 of at least `smallest` pixels a side."""
    name: str
    call: Callable
    smallest: int = 1


def package(name: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingError(f"This metric needs the package {error.name}. Install it with: pip install "
                           f"{error.name.replace('_', '-')}"
                           ) from error


def load_vgg19(folder: Path | None, device: torch.device) -> Network:
    """Features (B, 256, H / 4, W / 4) after conv3_1 and ReLU.

    A folder without torchvision's weights may have AdaIN's normalized ones, whose values are on another scale.
    """
    if folder and not (folder / VGG19.name).exists() and (folder / VGG19_NORMALIZED).exists():
        with weights_of(folder / VGG19_NORMALIZED) as weights:
            network = normalized_vgg19(weights)
        return Network("VGG19, normalized as for AdaIN", network.to(device).eval(), smallest=5)
    layers = make_layers(cfgs["E"][:7])
    with weights_of(VGG19.path(folder)) as weights:
        layers.load_state_dict({name: weights[f"features.{name}"] for name in layers.state_dict()})
    layers.to(device).eval()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return Network("VGG19, torchvision", lambda pictures: layers((pictures - mean) / std), smallest=4)


def normalized_vgg19(weights: dict[str, torch.Tensor]) -> nn.Sequential:
    """AdaIN's encoder up to the ReLU of conv3_1: 1 x 1, then VGG19 with reflection padding."""
    layers = [nn.Conv2d(3, 3, 1)]
    for width_in, width_out, pooled in (
            (3, 64, False), (64, 64, True), (64, 128, False), (128, 128, True), (128, 256, False)):
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(width_in, width_out, 3), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)] if pooled else []
    network = nn.Sequential(*layers)
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network


def load_lpips(folder: Path | None, device: torch.device) -> Network:
    """LPIPS 0.1 on AlexNet (Zhang et al. 2018): of two batches, one distance for each pair."""
    lpips = package("lpips")
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    with weights_of(ALEXNET.path(folder)) as weights:
        named = {name: weights["features." + name.split(".", 1)[1]] for name in network.net.state_dict()}
        network.net.load_state_dict(named)
    network.to(device).eval()
    return Network("LPIPS 0.1, AlexNet", lambda a, b: network(a, b, normalize=True).flatten(), smallest=31)


def load_inception(folder: Path | None, device: torch.device) -> Network:
    """Features (B, 2048) for FID: ArtFID's own Inception where `folder` has it, else that of the FID."""
    if folder and (folder / ART_INCEPTION).exists():
        network = inception_v3(weights=None, init_weights=False, aux_logits=False)
        network.fc = nn.Identity()
        with weights_of(folder / ART_INCEPTION) as weights:
            network.load_state_dict({name: weights[name] for name in network.state_dict()})
        return Network("Inception of ArtFID", network.to(device).eval(), smallest=75)
    inception = package("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    path = INCEPTION.path(folder)
    with weights_of(path):  # which has shown them harmless: the package unpickles whatever is in the file
        extractor = inception("inception", ["2048"], feature_extractor_weights_path=str(path))
    extractor.to(device)

    def call(pictures):
        return extractor((pictures * 255).round().to(torch.uint8))[0]

    return Network("Inception of FID (2015-12-05)", call)


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """FID (Heusel et al. 2017) of two sets of features (N, D), each with at least two members."""
    fid = package("torch_fidelity.metric_fid")
    statistics = [fid.fid_features_to_statistics(torch.as_tensor(features, dtype=torch.float64)) for features in (a, b)]
    return fid.fid_statistics_to_metric(*statistics, verbose=False)[fid.KEY_METRIC_FID]
