"""Train the demo's networks: autoencoder, UNet, transformer. Called by dev.py train."""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed

from styleid_core.metrics.networks import MissingError, load_lpips
from tools.in_process import args

from ..host import ROOT, say

# isort: split
from ..miniature.autoencoder import WEIGHTS
from ..miniature.flow import load_trained_flow
from ..miniature.unet import load_trained_unet
from .autoencoder import autoencoder_task, new_autoencoder, shipped_autoencoder
from .detail import decoder_task, detail_task, restoration
from .flow import flow_task, untrained_flow
from .loop import train, workers
from .pictures import draw_pictures, find_pictures, load_squares, paint_pictures
from .report import write_report
from .unet import PROMPT_OF_FOLDER, unet_task, untrained_unet

STEPS = {"autoencoder": 10000, "detail": 5500, "decoder": 5500, "unet": 15000, "flow": 15000}
RATES = {"autoencoder": 5e-4, "detail": 8e-4, "decoder": 8e-4, "unet": 8e-4, "flow": 1e-3}
# How many, and their narrowest stroke in pixels.
DRAWN = {"drawn": (96, (1, 8)), "strokes": (192, (4, 12)), "broad": (96, (10, 22))}
WORK, SHOWN = ROOT / ".dev" / "training", ROOT / "tests" / "pictures"


def parse_arguments():
    parser = argparse.ArgumentParser(prog="dev.py train")
    parser.add_argument("--images", type=Path, required=True,
                        help="a folder of pictures, searched with its sub-folders")
    parser.add_argument("--weights", type=Path, metavar="DIR",
                        help="AlexNet, as python -m tools.bench.registry_weights DIR writes it (default: torch hub's, "
                             "244 MB)")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=[stage for stage in STEPS if stage != "decoder"],
                        metavar="STAGE",
                        help=f"some of the stages {', '.join(STEPS)} (default: all but decoder); the rest stays as "
                             "shipped, and fits no longer where the encoder changes")
    parser.add_argument("--on", action="store_true", help="train the shipped networks on, instead of new ones")
    for stage, steps in STEPS.items():
        parser.add_argument(f"--{stage}-steps", type=int, default=steps, metavar="N", help=f"default: {steps}")
    parser.add_argument("--batch-scale", type=int, default=1, metavar="N",
                        help="batches N times as large; 16 keeps a large GPU busy")
    parser.add_argument("--processes", type=int, choices=(1, 2, 4), default=1,
                        help="share each batch, with one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=WORK,
                        help="where checkpoints are kept; an interrupted run goes on from them")
    parser.add_argument("--out", type=Path, default=WEIGHTS,
                        help="where weights, logs and card go in the end (default: over those here)")
    return parser.parse_args()


def main(options):
    device = torch.device("cpu" if args.cpu else "cuda")
    torch.set_float32_matmul_precision("high")  # TensorFloat-32, where there is such a GPU
    torch.backends.cudnn.benchmark = True  # of few shapes
    lpips = load_lpips(options.weights, device)
    options.folder.mkdir(parents=True, exist_ok=True)
    training, held_back = find_pictures(options.images)
    drawn = {name: draw_pictures(options.folder / name, count, options.seed + i, widths)
             for i, (name, (count, widths)) in enumerate(DRAWN.items())}
    # Of ink there is enough.
    colored = [path for path in training if PROMPT_OF_FOLDER.get(path.parent.name) != "chinese painting"]
    painted = paint_pictures(options.folder / "painted", colored, options.seed + len(DRAWN))
    facts = {"found": len(training), "drawn": sum(map(len, drawn.values())), "painted": len(painted),
             "held_back": len(held_back), "seed": options.seed, "batch_scale": options.batch_scale,
             "processes": options.processes}
    say("{found} pictures, {painted} painted and {drawn} drawn ones to train on, {held_back} held back, on "
        "{device}".format(
        device=device, **facts))
    for paths in (painted, *drawn.values()):
        training += paths

    run = options.folder / "on" if options.on else options.folder
    run.mkdir(exist_ok=True)

    def trained(stage, task):
        return train(task, run, getattr(options, f"{stage}_steps"), RATES[stage], options.seed, device)

    def is_new(stage):
        return stage in options.only and not options.on

    autoencoder = (new_autoencoder(options.seed) if is_new("autoencoder") else shipped_autoencoder()).to(device)
    if "autoencoder" in options.only:
        autoencoder = trained("autoencoder", autoencoder_task(autoencoder, training, held_back, device,
                                                              options.batch_scale))
    of_detail = training, drawn["strokes"], held_back, lpips.call, device, options.batch_scale
    if "detail" in options.only:
        autoencoder = trained("detail", detail_task(autoencoder, *of_detail))
    if "decoder" in options.only:
        autoencoder[1] = trained("decoder", decoder_task(autoencoder, *of_detail))
    networks = {"autoencoder": autoencoder}
    for stage, new, shipped, task in (("unet", untrained_unet, load_trained_unet,
                                       partial(unet_task, weights=options.weights)),
                                      ("flow", untrained_flow, load_trained_flow, flow_task)):
        patcher = new(options.seed) if is_new(stage) else shipped()
        networks[stage] = patcher.model.diffusion_model
        if stage in options.only:
            networks[stage] = trained(stage, task(patcher, autoencoder, training, held_back, options.folder,
                                                  options.seed, device, options.batch_scale))

    if workers()[0] == 0:
        with torch.inference_mode():
            facts |= restoration(autoencoder, load_squares(held_back, 256), lpips.call, device)
        write_report(networks, {stage: run / f"{stage}.csv" for stage in options.only}, options.out, facts, device,
                     SHOWN)


if __name__ == "__main__":
    options = parse_arguments()
    if options.processes > 1 and not torch.distributed.is_torchelastic_launched():
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes), "-m",
                  "tools.training"]
        sys.exit(subprocess.call([sys.executable, *launch, *sys.argv[1:]]))
    if options.processes > 1:
        torch.distributed.init_process_group("gloo")
    try:
        main(options)
    except MissingError as error:
        sys.exit(f"error: {error}")
