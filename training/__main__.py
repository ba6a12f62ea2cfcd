"""Train the demo's autoencoder and UNet and write their weights, logs and pictures. Called by dev.py train."""

import argparse
from pathlib import Path

import torch

from tools.host import ROOT, say
from tools.in_process import args

# isort: split
from .autoencoder import autoencoder_task
from .loop import train
from .pictures import draw_pictures, find_pictures
from .report import write_report
from .unet import unet_task

WEIGHTS = ROOT / "demo" / "styleid_demo" / "weights"
AUTOENCODER_RATE, UNET_RATE = 5e-4, 6e-4
DRAWN = 96
WORK = ROOT / ".dev" / "training"


def parse_arguments():
    parser = argparse.ArgumentParser(prog="dev.py train")
    parser.add_argument("--images", type=Path, required=True, help="a folder of pictures, searched with its sub-folders")
    parser.add_argument("--autoencoder-steps", type=int, default=10000)
    parser.add_argument("--unet-steps", type=int, default=11500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=WORK, help="where checkpoints are kept; an interrupted run goes on from them")
    return parser.parse_args()


def main():
    options = parse_arguments()
    device = torch.device("cpu" if args.cpu else "cuda")
    options.folder.mkdir(parents=True, exist_ok=True)
    training, held_back = find_pictures(options.images)
    drawn = draw_pictures(options.folder / "drawn", DRAWN, options.seed)
    say(f"{len(training)} pictures and {len(drawn)} drawn ones to train on, {len(held_back)} held back, on {device}")
    training += drawn
    autoencoder = train(autoencoder_task(training, held_back, options.seed, device), options.folder, options.autoencoder_steps,
                        AUTOENCODER_RATE, options.seed, device)
    unet = train(unet_task(autoencoder[0], training, held_back, options.folder, options.seed, device), options.folder, options.unet_steps,
                 UNET_RATE, options.seed, device)
    command = (f"python dev.py train --images DIR --autoencoder-steps {options.autoencoder_steps} --unet-steps {options.unet_steps} "
               f"--seed {options.seed}")
    counts = {"found": len(training) - DRAWN, "drawn": DRAWN, "held_back": len(held_back)}
    write_report(autoencoder, unet, options.folder, WEIGHTS, counts, command, device, ROOT / "tests" / "pictures")


if __name__ == "__main__":
    main()
