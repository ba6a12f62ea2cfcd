"""What fewer steps, `refine` and other frequencies of the start do to the built-in UNet: python -m tools.bench.recipes
WEIGHTS

Two tables; WEIGHTS is a folder as tools.bench.registry_weights writes it.
"""

import sys
from itertools import product
from pathlib import Path

import torch

from .distances import Pairs, Transfer, distances, invert_pairs, stylized

# isort: split
from styleid_core.metrics.cfsd import cfsd
from styleid_core.metrics.networks import load_lpips, load_vgg19

from ..demo.measures import psnr
from ..pack import load_pack
from .page import show

STEPS, ROUNDS = (4, 8, 12, 20, 50), (0, 1, 2, 4)
SHOWN, SIDE = ("swirls", "embers", "waves", "ink"), 128
BANDS = {"none": dict(keep=1.0), "0.3, 0.9, 0.7 (published)": dict(inner=0.3, outer=0.9, keep=0.7),
         "0.3, 0.9, 0.85": dict(inner=0.3, outer=0.9, keep=0.85), "0.2, 0.5, 0.4": dict(inner=0.2, outer=0.5, keep=0.4)}
DISTANCES = ["structure", "color", "texture", "LPIPS", "CFSD"]


@torch.inference_mode()
def main(weights: Path):
    pack, cpu = load_pack(), torch.device("cpu")
    lpips, vgg = load_lpips(weights, cpu).call, load_vgg19(weights, cpu).call

    def cells(pairs: Pairs, results: list[torch.Tensor]) -> list[str]:
        """As DISTANCES names them."""
        found = distances(pairs, results).means()
        perceptual = torch.cat([lpips(result, pairs.contents) for result in results]).mean().item()
        changes = [cfsd(content, picture, vgg).mean
                   for result in results for content, picture in zip(pairs.contents, result)]
        return [*(f"{value:.3f}" for value in (found.structure, found.color, found.texture, perceptual)),
                f"{sum(changes) / len(changes):.2e}"]

    def rows_of_steps():
        longest = Transfer(pack, "ddim", max(STEPS))
        reference = torch.cat(stylized(longest, invert_pairs(longest, SHOWN, SIDE)))
        for steps, rounds in product(STEPS, ROUNDS):
            transfer = Transfer(pack, "ddim", steps, rounds)
            pairs = invert_pairs(transfer, SHOWN, SIDE)
            results = stylized(transfer, pairs)
            away = lpips(torch.cat(results), reference).mean()
            encoded = transfer.encode(pairs.contents.movedim(1, -1))
            again = transfer.sample(pairs.content.noise, pairs.content.sigmas)
            round_trip = psnr(transfer.decode(again), transfer.decode(encoded)).mean()
            yield [str(steps), str(rounds), str(steps * (3 + 2 * rounds)), f"{round_trip:.1f} dB",
                   *cells(pairs, results), f"{away:.3f}"]

    def rows_of_bands():
        transfer = Transfer(pack)
        pairs = invert_pairs(transfer, SHOWN, SIDE)
        for name, band in BANDS.items():
            [noise] = pack.StyleIDStartFrequencies(noise=pairs.content.noise, **band)
            other = pairs._replace(content=pairs.content._replace(noise=noise))
            yield [name, *cells(pairs, stylized(transfer, other))]

    show(["steps", "refine", "model calls", "round trip", *DISTANCES, f"LPIPS to {max(STEPS)} steps"], rows_of_steps())
    show(["inner, outer, keep", *DISTANCES], rows_of_bands())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
