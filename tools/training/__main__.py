"""Train the demo's networks: autoencoder, decoder, UNet, or the transformer and its autoencoder. Called by dev.py train."""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed

from styleid_core.metrics.networks import MissingError, load_lpips
from tools.in_process import args

from ..host import ROOT, say

# isort: split
from ..miniature.unet import WEIGHTS, load_trained_unet
from .autoencoder import autoencoder_task, shipped_autoencoder
from .decoder import decoder_task, restoration
from .flow import flow_task
from .flow_autoencoder import flow_autoencoder_task
from .loop import train, workers
from .pictures import draw_pictures, find_pictures, load_squares
from .report import write_flow_report, write_report
from .unet import unet_task

AUTOENCODER_RATE, DECODER_RATE, UNET_RATE, FLOW_AUTOENCODER_RATE, FLOW_RATE = 5e-4, 5e-4, 6e-4, 8e-4, 1e-3
DRAWN, STROKES, BROAD = 96, 192, 96
STROKE_WIDTHS, BROAD_WIDTHS = (4, 12), (10, 22)  # pixels, with up to 5 more
WORK, SHOWN = ROOT / ".dev" / "training", ROOT / "tests" / "pictures"


def parse_arguments():
    parser = argparse.ArgumentParser(prog="dev.py train")
    parser.add_argument("--images", type=Path, required=True, help="a folder of pictures, searched with its sub-folders")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="AlexNet for LPIPS, as python -m tools.bench.registry_weights DIR "
                        "writes it (default: torch hub's, 244 MB)")
    parser.add_argument("--autoencoder-steps", type=int, default=10000)
    parser.add_argument("--decoder-steps", type=int, default=2450)
    parser.add_argument("--unet-steps", type=int, default=11500)
    parser.add_argument("--flow-autoencoder-steps", type=int, default=5500)
    parser.add_argument("--flow-steps", type=int, default=15000)
    parser.add_argument("--flow-only", action="store_true",
                        help="train the transformer, and its autoencoder from the shipped one; the rest stays")
    parser.add_argument("--processes", type=int, default=1, help="that share each batch of --flow-only, with one thread each")
    parser.add_argument("--decoder-only", action="store_true", help="train the shipped decoder on; the encoder and the UNet stay")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=WORK, help="where checkpoints are kept; an interrupted run goes on from them")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where weights, logs and card go in the end (default: over those here)")
    return parser.parse_args()


def main(options):
    device = torch.device("cpu" if args.cpu else "cuda")
    lpips = load_lpips(options.weights, device)
    options.folder.mkdir(parents=True, exist_ok=True)
    training, held_back = find_pictures(options.images)
    drawn = draw_pictures(options.folder / "drawn", DRAWN, options.seed)
    strokes = draw_pictures(options.folder / "strokes", STROKES, options.seed + 1, STROKE_WIDTHS)
    say(f"{len(training)} pictures and {len(drawn) + len(strokes)} drawn ones to train on, {len(held_back)} held back, on {device}")
    facts = {"found": len(training), "drawn": len(drawn), "strokes": len(strokes), "held_back": len(held_back), "seed": options.seed}
    training += drawn

    def trained(task, steps, rate):
        return train(task, options.folder, steps, rate, options.seed, device)

    if options.flow_only:
        broad = draw_pictures(options.folder / "broad", BROAD, options.seed + 2, BROAD_WIDTHS)
        training += strokes + broad
        task = flow_autoencoder_task(training, strokes, held_back, lpips.call, options.seed, device)
        autoencoder = trained(task, options.flow_autoencoder_steps, FLOW_AUTOENCODER_RATE)
        task = flow_task(autoencoder[0], training, held_back, options.folder, options.seed, device)
        flow = trained(task, options.flow_steps, FLOW_RATE)
        if workers()[0] == 0:
            with torch.inference_mode():
                facts |= restoration(autoencoder, load_squares(held_back, 256), lpips.call, device)
            facts |= {"painted": len(drawn + strokes + broad), "processes": options.processes}
            write_flow_report(autoencoder, flow, options.folder, options.out, facts, device, SHOWN)
        return
    if options.decoder_only:
        autoencoder, unet = shipped_autoencoder(), load_trained_unet().model.diffusion_model
    else:
        autoencoder = trained(autoencoder_task(training, held_back, options.seed, device), options.autoencoder_steps, AUTOENCODER_RATE)
    decoder = trained(decoder_task(autoencoder, training, strokes, held_back, lpips.call, device), options.decoder_steps, DECODER_RATE)
    autoencoder = torch.nn.Sequential(autoencoder[0], decoder)
    if not options.decoder_only:
        unet = trained(unet_task(autoencoder[0], training, held_back, options.folder, options.seed, device), options.unet_steps, UNET_RATE)

    with torch.inference_mode():
        facts |= restoration(autoencoder, load_squares(held_back, 256), lpips.call, device)
    write_report(autoencoder, unet, options.folder, options.out, facts, device, SHOWN)


if __name__ == "__main__":
    options = parse_arguments()
    if options.processes > 1 and not torch.distributed.is_torchelastic_launched():
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes), "-m", "tools.training"]
        sys.exit(subprocess.call([sys.executable, *launch, *sys.argv[1:]]))
    if options.processes > 1:
        torch.distributed.init_process_group("gloo")
    try:
        main(options)
    except MissingError as error:
        sys.exit(f"error: {error}")
