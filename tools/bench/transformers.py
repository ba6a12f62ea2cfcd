"""What recomputing, int8 and the inversions leave of every family of transformers: python -m tools.bench.transformers > TABLE"""

from types import SimpleNamespace

import torch

import tools.in_process  # noqa: F401

# isort: split
import comfy.utils

from ..demo.transfer import sample_custom
from ..miniature.transformers import SMALL, latent, load_transformer, prompt
from ..pack import load_pack, stylize

CONTENT, STYLE, STEPS = (16, 12), (12, 18), 20
GAIN = 0.1  # of the seeded velocities: a path that bends, and that can be followed


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def round_trip(pack: SimpleNamespace, model, name: str, **options) -> float:
    z, positive = latent(name, CONTENT, 1), prompt(name)
    noise, _, sigmas = pack.DDIMInvert(model=model, latent=z, positive=positive, steps=STEPS, **options)
    [sampler] = pack.FireFlowSampler() if options.get("inversion") == "fireflow" else ["euler"]
    return error(sample_custom(model, positive, sigmas, noise, sampler=sampler)["samples"], z["samples"])


def row(pack: SimpleNamespace, name: str) -> str:
    model = load_transformer(name, GAIN)
    inputs = dict(model=model, content=latent(name, CONTENT, 1), style=latent(name, STYLE, 2), positive=prompt(name), steps=STEPS)
    kept = stylize(pack, **inputs)["samples"]
    recomputed = error(stylize(pack, feature_device="recompute", **inputs)["samples"], kept)
    int8 = error(stylize(pack, feature_dtype="int8", **inputs)["samples"], kept)
    trips = [round_trip(pack, model, name), round_trip(pack, model, name, refine=1),
             None if name == "cosmos_predict2" else round_trip(pack, model, name, inversion="fireflow")]
    cells = [f"{value:.1e}" for value in (recomputed, int8)] + ["-" if value is None else f"{value:.1%}" for value in trips]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    comfy.utils.PROGRESS_BAR_ENABLED = False
    loaded = load_pack()
    print("| | recomputed | int8 | round trip, ddim | refine 1 | fireflow |\n|---|---|---|---|---|---|")
    with torch.inference_mode():
        for each in SMALL:
            print(row(loaded, each))
