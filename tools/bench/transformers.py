"""What recomputing, int8 and the inversions leave of every family of transformers, and the memory that recomputing
takes:

MALLOC_MMAP_THRESHOLD_=65536 python -m tools.bench.transformers > TABLES

The variable lets Linux take memory back at once, so that the highest use of the process is that of its tensors.
"""

from pathlib import Path
from types import SimpleNamespace

import torch

import tools.in_process  # noqa: F401

# isort: split
import comfy.utils

from ..demo.transfer import sample_custom
from ..miniature.transformers import SMALL, latent, load_transformer, prompt
from ..pack import load_pack, stylize

CONTENT, STYLE, STEPS = (16, 12), (12, 18), 20
LARGE = (64, 64)  # 1,024 tokens
LARGER = dict(hidden_size=512, num_heads=8, depth=4, depth_single_blocks=12, axes_dim=[16, 24, 24], mlp_ratio=4.0)
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
    inputs = dict(model=model, content=latent(name, CONTENT, 1), style=latent(name, STYLE, 2), positive=prompt(name),
                  steps=STEPS)
    kept = stylize(pack, **inputs)["samples"]
    recomputed = error(stylize(pack, feature_device="recompute", **inputs)["samples"], kept)
    int8 = error(stylize(pack, feature_dtype="int8", **inputs)["samples"], kept)
    trips = [round_trip(pack, model, name), round_trip(pack, model, name, refine=1),
             None if name == "cosmos_predict2" else round_trip(pack, model, name, inversion="fireflow")]
    cells = [f"{value:.1e}" for value in (recomputed, int8)] + ["-" if value is None else f"{value:.1%}"
                                                                for value in trips]
    return f"| {name} | {' | '.join(cells)} |"


def highest() -> int:
    """Bytes that this process has held at most."""
    [line] = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def memory(pack: SimpleNamespace, name: str = "flux") -> list[str]:
    """Rows of a table: megabytes above those at rest."""
    model = load_transformer(name, GAIN, **LARGER)
    positive = prompt(name)
    rows = []

    def measured(what: str, m, sigmas, z):
        sample_custom(m, positive, sigmas, z)  # loads what is loaded once
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest use
        before = highest()
        sample_custom(m, positive, sigmas, z)
        rows.append(f"| {what} | {(highest() - before) / 2 ** 20:.0f} |")

    for device in ("recompute", "cpu"):
        [recording] = pack.CaptureSelfAttention(model=model, blocks="double 0-3, single 0-11", feature_device=device)
        (noise, content, sigmas), (_, style, _) = (
            pack.DDIMInvert(model=recording, latent=latent(name, LARGE, seed), positive=positive, steps=2)
            for seed in (1, 2))
        if device == "recompute":
            measured("one call", model, sigmas, noise)
            measured("a batch of three", model, sigmas, {"samples": noise["samples"].repeat(3, 1, 1, 1)})
        [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
        measured("injected, recomputed" if device == "recompute" else "injected, kept (its features apart)", m, sigmas,
                 noise)
    return rows


if __name__ == "__main__":
    comfy.utils.PROGRESS_BAR_ENABLED = False
    loaded = load_pack()
    print("| | recomputed | int8 | round trip, ddim | refine 1 | fireflow |\n|---|---|---|---|---|---|")
    with torch.inference_mode():
        for each in SMALL:
            print(row(loaded, each))
        print("\n| | MB above the model's |\n|---|---|", *memory(loaded), sep="\n")
