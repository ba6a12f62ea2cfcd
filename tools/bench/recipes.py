"""What fewer steps, `refine` and other frequencies of the start do to the built-in model: python -m tools.bench.recipes
WEIGHTS

Two tables; WEIGHTS is a folder as tools.bench.registry_weights writes it.
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

from ..demo.draw_style import STYLES, broader, draw
from ..demo.measures import color_distance, psnr, share_left, structure_distance, texture_distance
from ..demo.transfer import Inverted, Transfer, as_image
from ..host import ROOT
from ..pack import load_pack

STEPS, ROUNDS = (4, 8, 12, 20, 50), (0, 1, 2, 4)
SHOWN = ("swirls", "embers", "waves", "ink")
SIDE = 128
CPU = torch.device("cpu")
BANDS = {"none": None, "0.3, 0.9, 0.7 (published)": (0.3, 0.9, 0.7), "0.3, 0.9, 0.85": (0.3, 0.9, 0.85),
         "0.2, 0.5, 0.4": (0.2, 0.5, 0.4)}
STEPS_HEAD = ("| steps | refine | model calls | round trip | structure | color | texture | LPIPS | CFSD "
              "| LPIPS to 50 steps |")
BANDS_HEAD = "| inner, outer, keep | structure | color | texture | LPIPS | CFSD |"


def decoded(transfer: Transfer, latent: dict) -> torch.Tensor:
    return transfer.decode(latent).movedim(-1, 1)


def round_trip(transfer: Transfer, images: torch.Tensor, content: Inverted) -> float:
    """PSNR in dB of pictures that were inverted and sampled, to what the autoencoder makes of them."""
    back = transfer.sample(content.noise, content.sigmas)
    return psnr(decoded(transfer, back), decoded(transfer, transfer.encode(images))).mean().item()


def distances(results: list[torch.Tensor], contents: torch.Tensor, styles: torch.Tensor, networks: tuple) -> list[str]:
    """Structure; color and texture as the share of the distance to the style that is left; LPIPS; CFSD: of results (B,
    3, H, W) for each of the styles (S, 3, H, W).
    """
    lpips, vgg = networks
    rows = []
    for style, result in zip(styles, results):
        left = [share_left(distance, contents, result, style).mean() for distance in (color_distance, texture_distance)]
        kept = torch.tensor([cfsd(a, b, vgg).mean for a, b in zip(contents, result)]).mean()
        rows.append(torch.stack([structure_distance(result, contents).mean(), *left, lpips(result, contents).mean(),
                                 kept]))
    *values, kept = torch.stack(rows).mean(0).tolist()
    return [*(f"{value:.3f}" for value in values), f"{kept:.2e}"]


def print_table(head: str, rows: list[list[str]]):
    print("\n".join(["", head, "|---:" * head.count(" |") + "|", *(f"| {' | '.join(row)} |" for row in rows)]),
          flush=True)


@torch.inference_mode()
def main(weights: Path):
    pack, networks = load_pack(), (load_lpips(weights, CPU).call, load_vgg19(weights, CPU).call)
    images = torch.cat([as_image(Image.open(path), SIDE)
                        for path in sorted((ROOT / "tests" / "pictures").glob("*.jpg"))])
    painted = [as_image(draw(broader(STYLES[name])), SIDE) for name in SHOWN]
    contents, styles = images.movedim(-1, 1), torch.cat(painted).movedim(-1, 1)

    def stylized(transfer: Transfer, content: Inverted) -> list[torch.Tensor]:
        return [decoded(transfer, transfer.stylize(content, transfer.invert(style))) for style in painted]

    rows, reference = {}, None
    for steps, rounds in product(reversed(STEPS), ROUNDS):
        transfer = Transfer(pack, "ddim", steps, rounds)
        content = transfer.invert(images)
        results = stylized(transfer, content)
        reference = reference or results
        away = networks[0](torch.cat(results), torch.cat(reference)).mean().item()
        rows[steps, rounds] = [str(steps), str(rounds), str(steps * (3 + 2 * rounds)),
                               f"{round_trip(transfer, images, content):.1f} dB",
                               *distances(results, contents, styles, networks), f"{away:.3f}"]
    print_table(STEPS_HEAD, [rows[case] for case in product(STEPS, ROUNDS)])

    transfer = Transfer(pack)
    content, rows = transfer.invert(images), []
    for name, band in BANDS.items():
        noise = content.noise
        if band is not None:
            [noise] = pack.StyleIDStartFrequencies(noise=noise, **dict(zip(("inner", "outer", "keep"), band)))
        rows.append([name, *distances(stylized(transfer, content._replace(noise=noise)), contents, styles, networks)])
    print_table(BANDS_HEAD, rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
