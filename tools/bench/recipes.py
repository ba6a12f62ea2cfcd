"""What fewer steps and `refine` do to the built-in model: python -m tools.bench.recipes WEIGHTS

A table of the round trip and of transfers, by steps and rounds; WEIGHTS is a folder as tools.bench.registry_weights writes it.
"""

import sys
from itertools import product
from pathlib import Path

import torch
from PIL import Image

import tools.in_process  # noqa: F401

# isort: split
from styleid_core.metrics.cfsd import cfsd
from styleid_core.metrics.networks import load_lpips, load_vgg19

from ..demo.draw_style import STYLES, draw
from ..demo.measures import color_distance, psnr, structure_distance, texture_distance
from ..demo.transfer import Transfer, as_image
from ..host import ROOT
from ..pack import load_pack

STEPS, ROUNDS = (4, 8, 12, 20, 50), (0, 1, 2, 4)
SHOWN = ("swirls", "embers", "waves", "ink")
SIDE = 128
CPU = torch.device("cpu")
HEAD = "| steps | refine | model calls | round trip | structure | color | texture | LPIPS | CFSD | LPIPS to 50 steps |"


def measure(transfer: Transfer, contents: torch.Tensor, styles: torch.Tensor, networks: tuple) -> tuple[list[float], torch.Tensor]:
    """(round trip in dB; distances of structure, LPIPS and CFSD to the contents, and shares of those of color and texture to the styles
    that are left; the results (S, B, 3, H, W)) of all contents (B, 3, H, W) in all styles (S, 3, H, W).
    """
    lpips, vgg = networks
    images = contents.movedim(1, -1)
    inverted = transfer.invert(images)

    def decoded(latent):
        return transfer.decode(latent).movedim(-1, 1)

    back = psnr(decoded(transfer.sample(inverted.noise, inverted.sigmas)), decoded(transfer.encode(images))).mean()
    results = [decoded(transfer.stylize(inverted, transfer.invert(style[None].movedim(1, -1)))) for style in styles]
    rows = []
    for style, result in zip(styles, results):
        wanted = style.expand_as(result)
        left = [(distance(result, wanted) / distance(contents, wanted)).mean() for distance in (color_distance, texture_distance)]
        kept = torch.tensor([cfsd(a, b, vgg).mean for a, b in zip(contents, result)]).mean()
        rows.append(torch.stack([structure_distance(result, contents).mean(), *left, lpips(result, contents).mean(), kept]))
    return [back.item(), *torch.stack(rows).mean(0).tolist()], torch.stack(results)


@torch.inference_mode()
def main(weights: Path):
    pack, networks = load_pack(), (load_lpips(weights, CPU).call, load_vgg19(weights, CPU).call)
    contents = torch.cat([as_image(Image.open(path), SIDE) for path in sorted((ROOT / "tests" / "pictures").glob("*.jpg"))]).movedim(-1, 1)
    styles = torch.cat([as_image(draw(STYLES[name]), SIDE) for name in SHOWN]).movedim(-1, 1)
    lines, reference = [], None
    for steps, rounds in sorted(product(STEPS, ROUNDS), key=lambda case: (-case[0], case[1])):
        values, results = measure(Transfer(pack, "ddim", steps, rounds), contents, styles, networks)
        reference = results if reference is None else reference
        away = networks[0](results.flatten(0, 1), reference.flatten(0, 1)).mean()
        cells = [f"{values[0]:.1f} dB", *(f"{value:.3f}" for value in values[1:5]), f"{values[5]:.2e}", f"{away:.3f}"]
        lines.append(f"| {steps} | {rounds} | {steps * (3 + 2 * rounds)} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    print("\n".join(["", HEAD, "|---:" * HEAD.count(" |") + "|", *reversed(lines)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
