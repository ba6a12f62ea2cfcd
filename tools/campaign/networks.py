"""Weights of the measures' networks in their real layouts, at random: enough to run, and nothing is downloaded."""

from pathlib import Path

import torch
from torchvision.models import alexnet
from torchvision.models.vgg import cfgs, make_layers

from styleid_core.metrics.networks import ALEXNET, VGG19


def write_weights(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for file, layers in ((VGG19, make_layers(cfgs["E"][:7])), (ALEXNET, alexnet().features)):
        torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, folder / file.name)
