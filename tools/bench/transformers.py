"""What recomputing, int8 and the inversions leave of every transformer: python -m tools.bench.transformers"""

from types import SimpleNamespace

import torch

import tools.in_process  # noqa: F401

# isort: split
from ..demo.transfer import sample_custom
from ..miniature.transformers import SMALL, latent, load_transformer, prompt
from ..pack import load_pack, stylize
from .page import show

CONTENT, STYLE, STEPS = (16, 12), (12, 18), 20
GAIN = 0.1  # of the seeded velocities: a path that bends, and that can be followed


def error(a: dict, b: dict) -> float:
    return ((a["samples"] - b["samples"]).norm() / b["samples"].norm()).item()


def round_trip(pack: SimpleNamespace, model, name: str, **options) -> float:
    z, positive = latent(name, CONTENT, 1), prompt(name)
    noise, _, sigmas = pack.DDIMInvert(model=model, latent=z, positive=positive, steps=STEPS, **options)
    [sampler] = pack.FireFlowSampler() if options.get("inversion") == "fireflow" else ["euler"]
    return error(sample_custom(model, positive, sigmas, noise, sampler=sampler), z)


@torch.inference_mode()
def row(pack: SimpleNamespace, name: str) -> list[str]:
    model = load_transformer(name, GAIN)
    inputs = dict(model=model, content=latent(name, CONTENT, 1), style=latent(name, STYLE, 2), positive=prompt(name),
                  steps=STEPS)
    kept = stylize(pack, **inputs)
    changes = [error(stylize(pack, **inputs, **options), kept)
               for options in (dict(feature_device="recompute"), dict(feature_dtype="int8"))]
    trips = [round_trip(pack, model, name), round_trip(pack, model, name, refine=1)]
    if name != "cosmos_predict2":  # which refuses it
        trips.append(round_trip(pack, model, name, inversion="fireflow"))
    return [name, *(f"{change:.1e}" for change in changes), *(f"{trip:.1%}" for trip in trips)]


if __name__ == "__main__":
    nodes = load_pack()
    show(["", "recomputed", "int8", "round trip, ddim", "refine 1", "fireflow"], (row(nodes, name) for name in SMALL))
