"""Train one of the demo's networks for one stage, from the shipped weights or from nothing. Called by dev.py train."""

import argparse
import shutil
from pathlib import Path

import torch

from styleid_core.metrics.networks import load_lpips
from tools.in_process import args

from ..host import WORK

# isort: split
from ..miniature.autoencoder import WEIGHTS
from ..miniature.flow import load_trained_flow
from ..miniature.unet import load_trained_unet
from .autoencoder import autoencoder_task, detail_task, new_autoencoder, shipped_autoencoder
from .diffusion import encode, flow_task, unet_task, untrained_flow, untrained_unet
from .loop import Task, save_network, train
from .parts import load_alexnet
from .pictures import Data, gather

FOLDER = WORK / "training"


def parse_arguments():
    parser = argparse.ArgumentParser(prog="dev.py train", description=__doc__)
    parser.add_argument("stage", choices=("autoencoder", "detail", "decoder", "unet", "flow"))
    parser.add_argument("--images", type=Path, required=True, help="a folder of pictures, with its sub-folders")
    parser.add_argument("--weights", type=Path, metavar="DIR",
                        help="AlexNet, as python -m tools.bench.registry_weights writes it (default: torch hub's)")
    parser.add_argument("--new", action="store_true", help="an autoencoder, unet or flow from nothing")
    parser.add_argument("--steps", type=int, required=True, help="an interrupted run goes on where it was")
    parser.add_argument("--rate", type=float, default=8e-4, help="learning rate (default: 8e-4)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="for weights and log (default: over those here)")
    return parser.parse_args()


def task_of(options, data: Data) -> Task:
    new = options.stage if options.new else None
    autoencoder = (new_autoencoder() if new == "autoencoder" else shipped_autoencoder()).to(data.device)
    if options.stage == "autoencoder":
        return autoencoder_task(autoencoder, data)
    if options.stage in ("detail", "decoder"):
        lpips = load_lpips(options.weights, data.device).call
        return detail_task(autoencoder, data, lpips, decoder_alone=options.stage == "decoder")
    samples = encode(autoencoder, data)
    if options.stage == "flow":
        patcher = untrained_flow() if new else load_trained_flow()
        return flow_task(patcher.model.to(data.device), samples)
    patcher = untrained_unet() if new else load_trained_unet()
    return unet_task(patcher.model.to(data.device), samples, autoencoder, load_alexnet(options.weights, data.device))


def main(options):
    torch.set_float32_matmul_precision("high")  # TensorFloat-32, where there is such a GPU
    checkpoints = FOLDER / ("new" if options.new else "on")
    for folder in (checkpoints, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    data = gather(options.images, FOLDER, torch.device("cpu" if args.cpu else "cuda"))
    network = train(task_of(options, data), checkpoints, options.steps, options.rate)
    shutil.copy(checkpoints / f"{options.stage}.csv", options.out)
    weights = options.stage if options.stage in ("unet", "flow") else "autoencoder"
    save_network(network, options.out / f"{weights}.safetensors")


if __name__ == "__main__":
    main(parse_arguments())
