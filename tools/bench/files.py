"""What saving and loading features takes, beside inverting again, for SD 1.5 at 512 x 512 in 50 steps: python -m
tools.bench.files
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from styleid_core.blocks import Block
from styleid_core.features import Features, Kept
from styleid_core.storage import restore, store
from styleid_core.style_file import Inverted, load, save

from .speed import CASES, conditioning, random_model

STEPS, ROUNDS = 50, 3
SHAPES = [(1024, 640)] * 3 + [(4096, 320)] * 3  # (tokens, channels) of blocks 6-11
CPU = torch.device("cpu")


def inverted(storage: str) -> Inverted:
    latent = torch.randn(1, 4, 64, 64)
    steps = [[store(torch.randn(1, *shape).half(), storage, torch.clone) for shape in SHAPES] for _ in range(STEPS)]
    sigmas = torch.linspace(0.03, 14, STEPS)
    blocks = [Block("output", number, 0) for number in range(6, 12)]
    return Inverted(latent, Features(sigmas.tolist(), blocks, Kept(steps), latent), sigmas.flip(0))


def timed(action) -> tuple[float, object]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def measure(storage: str, path: Path) -> list[float]:
    """Bytes, and seconds of saving, of loading (which checks every byte), and of reading all steps."""
    picture = inverted(storage)
    saving, _ = timed(lambda: save(picture, path))
    loading, read = timed(lambda: load(path))
    reading, _ = timed(lambda: [restore(n, CPU, torch.float32) for i in range(STEPS)
                                for n in read.features.source.step(i)])
    return [path.stat().st_size, saving, loading, reading]


def inverting() -> float:
    """Seconds of as many model calls as an inversion makes, of which one is timed."""
    case = CASES["SD 1.5, 512 x 512"]
    unet = random_model(case).model.diffusion_model
    x, timesteps, [[context, _]] = torch.randn(1, 4, case.side, case.side), torch.tensor([500]), conditioning(case)
    unet(x, timesteps, context=context)
    return STEPS * timed(lambda: unet(x, timesteps, context=context))[0]


@torch.inference_mode()
def main():
    again = inverting()
    print("| features | file | save | load and check | read a step | invert again |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for storage in ("fp16", "int8"):
            rounds = [measure(storage, Path(folder) / "style.safetensors") for _ in range(ROUNDS)]
            size, saving, loading, reading = map(statistics.median, zip(*rounds))
            print(f"| {storage} | {size / 1e9:.2f} GB | {saving:.1f} s | {loading:.1f} s | "
                  f"{1000 * reading / STEPS:.0f} ms | {again:.0f} s |")


if __name__ == "__main__":
    main()
