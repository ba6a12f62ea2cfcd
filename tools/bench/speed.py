"""What the method costs beyond its model calls: python dev.py bench.

On the same weights: as many calls of the bare model (the floor), this pack with features kept in several ways, and the
straightforward way. Each runs in turn with the floor; on a CPU in a process of its own, where memory is counted by
process. The weights are random, on which speed does not depend.
"""

import argparse
import gc
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

import tools.in_process  # noqa: F401

# isort: split
import comfy.samplers
import comfy.supported_models
import comfyui_version

from styleid_core.storage import STORAGES, size

from ..demo.transfer import sample_custom
from ..host import ROOT, say
from ..miniature.unet import UNET, new_unet
from ..pack import load_pack, stylize
from .straightforward import capturing, injecting

SD1 = UNET | dict(model_channels=320, context_dim=768)
SDXL = UNET | dict(model_channels=320, context_dim=2048, num_heads=-1, num_head_channels=64,
                   use_linear_in_transformer=True, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4],
                   transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
                   transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], num_classes="sequential",
                   adm_in_channels=2816)
FLUX = dict(image_model="flux", in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072,
            mlp_ratio=4.0, num_heads=24, depth=5, depth_single_blocks=10, axes_dim=[16, 56, 56], theta=10000,
            patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[])
GPU = torch.cuda.is_available()
FLOOR, STRAIGHTFORWARD = "model calls alone", "straightforward"
ON_A_GPU = {"auto, on the GPU": ("auto", "gpu"), "auto, in RAM": ("auto", "cpu"),
            "int8, on the GPU": ("int8", "gpu"), "int8, in RAM": ("int8", "cpu")}
KEPT = ON_A_GPU if GPU else {dtype: (dtype, "auto") for dtype in STORAGES}  # feature_dtype and feature_device
KEPT |= {"recompute": ("auto", "recompute")}
ONE_NODE = {"one node": "auto", "one node, recompute": "recompute"}
VARIANTS = [FLOOR, *KEPT, *ONE_NODE, STRAIGHTFORWARD]


class Case(NamedTuple):
    """A network, in half precision on a GPU and fp32 on a CPU, on `batch` latents (`channels`, `side`, `side`)."""
    config: dict
    family: type
    blocks: str
    side: int
    batch: int = 1
    channels: int = 4

    @property
    def is_transformer(self) -> bool:
        return "image_model" in self.config

    @property
    def variants(self) -> list[str]:
        return [name for name in VARIANTS if name != STRAIGHTFORWARD or not self.is_transformer]


CASES = {
    "SD 1.x in small, 256 x 256": Case(UNET, comfy.supported_models.SD15, "6-11", 32),
    "SD 1.5, 512 x 512": Case(SD1, comfy.supported_models.SD15, "6-11", 64),
    "SD 1.5, 4 pictures of 512 x 512": Case(SD1, comfy.supported_models.SD15, "6-11", 64, 4),
    "SD 1.5, 768 x 768": Case(SD1, comfy.supported_models.SD15, "6-11", 96),
    "SDXL, 1024 x 1024": Case(SDXL, comfy.supported_models.SDXL, "auto", 128),
    "Flux at a quarter of its depth, 1024 x 1024": Case(FLUX, comfy.supported_models.Flux, "auto", 128, channels=16),
}
ON_CPU, ON_GPU = list(CASES)[:1], list(CASES)[1:]


class Measured(NamedTuple):
    seconds: list[float]  # one for each round
    floor: list[float]  # seconds of the floor in the same rounds
    calls: int
    peak_bytes: int  # over the floor's; of GPU memory as torch counts it, or of the process on a CPU
    floor_peak_bytes: int
    feature_bytes: int | None


def random_model(case: Case):
    half = torch.bfloat16 if case.is_transformer else torch.float16
    patcher = new_unet(case.config | dict(dtype=half if GPU else torch.float32), case.family)
    generator = torch.Generator(patcher.load_device).manual_seed(0)
    for name, parameter in patcher.model.diffusion_model.named_parameters():
        spread = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.02
        drawn = torch.empty_like(parameter, device=patcher.load_device)
        parameter.data.copy_(drawn.normal_(1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0, spread,
                                           generator=generator))
    return patcher


def conditioning(case: Case) -> list:
    if case.is_transformer:
        return [[torch.randn(1, 256, case.config["context_in_dim"]),
                 {"pooled_output": torch.zeros(1, case.config["vec_in_dim"]), "guidance": 1.0}]]
    return [[torch.randn(1, 77, case.config["context_dim"]), {"pooled_output": torch.zeros(1, 1280)}]]


class Run:
    """One transfer, or its floor, on latents of noise."""

    def __init__(self, case: Case):
        self.pack, self.case, self.calls = load_pack(), case, 0
        self.model = random_model(case)
        network = self.model.model.diffusion_model
        (network.time_in if case.is_transformer else network.time_embed).register_forward_hook(self.count)
        self.positive = conditioning(case)
        self.content, self.style = ({"samples": torch.randn(case.batch, case.channels, case.side, case.side)}
                                    for _ in range(2))

    def count(self, *_):
        self.calls += 1

    def sample(self, model, start: dict, sigmas: torch.Tensor):
        sample_custom(model, self.positive, sigmas, start)

    def invert(self, model, latent: dict, steps: int) -> tuple:
        return self.pack.DDIMInvert(model=model, latent=latent, positive=self.positive, steps=steps, schedule="ddim")

    def floor(self, steps: int) -> int:
        sigmas = comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", 3 * steps)
        self.sample(self.model, self.content, sigmas)
        return 0

    def five_nodes(self, steps: int, dtype: str, device: str) -> int:
        [recording] = self.pack.CaptureSelfAttention(model=self.model, blocks=self.case.blocks, feature_dtype=dtype,
                                                     feature_device=device)
        (noise, content, sigmas), (style_noise, style, _) = (self.invert(recording, z, steps)
                                                             for z in (self.content, self.style))
        [start] = self.pack.LatentAdaIN(content=noise, style=style_noise)
        [m] = self.pack.InjectStyleKV(model=self.model, content_features=content, style_features=style)
        self.sample(m, start, sigmas)
        return size(content.source)

    def one_node(self, steps: int, device: str):
        # Copies, as the node remembers the inversions of the latents themselves.
        content, style = ({"samples": latent["samples"].clone()} for latent in (self.content, self.style))
        stylize(self.pack, model=self.model, content=content, style=style, positive=self.positive, steps=steps,
                schedule="ddim", blocks=self.case.blocks, feature_device=device)

    def straightforward(self, steps: int) -> int:
        [recording] = self.pack.CaptureSelfAttention(model=self.model, blocks=self.case.blocks)
        blocks = recording.model_options["transformer_options"]["styleid_capture"].blocks
        (content, q_content), (style, kv_style) = (capturing(self.model, blocks) for _ in range(2))
        (noise, _, sigmas), (style_noise, _, _) = (self.invert(m, z, steps)
                                                   for m, z in ((content, self.content), (style, self.style)))
        [start] = self.pack.LatentAdaIN(content=noise, style=style_noise)
        self.sample(injecting(self.model, blocks, q_content, kv_style), start, sigmas)
        return size(q_content)

    def variant(self, name: str, steps: int) -> int | None:
        """Run it; the bytes of one picture's features, where they can be seen."""
        if name in ONE_NODE:
            return self.one_node(steps, ONE_NODE[name])
        if name in KEPT:
            return self.five_nodes(steps, *KEPT[name])
        return self.floor(steps) if name == FLOOR else self.straightforward(steps)


def peak() -> int:
    return torch.cuda.max_memory_allocated() if GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(run: Run, variant: str, steps: int) -> tuple[float, int | None]:
    """(seconds, bytes of features)."""
    started = time.perf_counter()
    feature_bytes = run.variant(variant, steps)
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - started, feature_bytes


def measure(run: Run, variant: str, steps: int, rounds: int) -> Measured:
    run.variant(variant, 2)  # loads the model and warms up
    gc.collect()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    run.floor(steps)
    floor_peak, run.calls = peak(), 0
    _, feature_bytes = timed(run, variant, steps)
    calls, peak_bytes = run.calls, peak() - floor_peak
    pairs = [(timed(run, variant, steps)[0], timed(run, FLOOR, steps)[0]) for _ in range(rounds)]
    return Measured(*map(list, zip(*pairs)), calls, peak_bytes, floor_peak, feature_bytes)


def measured_here(case: str, variants: list[str], steps: int, rounds: int) -> list[Measured]:
    torch.manual_seed(0)
    with torch.inference_mode():
        run = Run(CASES[case])
        return [measure(run, variant, steps, rounds) for variant in variants]


def measured_apart(case: str, variants: list[str], steps: int, rounds: int) -> list[Measured]:
    """In another process."""
    command = [sys.executable, "-m", "tools.bench.speed", "--one", case, *variants, "--steps", str(steps), "--rounds",
               str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{case}, {', '.join(variants)} failed:\n{done.stderr[-2000:]}")
    return [Measured(*each) for each in json.loads(done.stdout.splitlines()[-1])]


def line(variant: str, measured: Measured) -> str:
    ratio = statistics.median(seconds / floor for seconds, floor in zip(measured.seconds, measured.floor))
    features = "" if measured.feature_bytes is None else f"{measured.feature_bytes / 1e6:.1f} MB"
    return (f"| {variant} | {statistics.median(measured.seconds):.2f} | {ratio - 1:+.1%} | {measured.calls} | "
            f"{measured.peak_bytes / 1e6:+.0f} MB | {features} |")


def main():
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=ON_GPU if GPU else ON_CPU)
    parser.add_argument("--steps", type=int, default=50 if GPU else 20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / f"speed_{'gpu' if GPU else 'cpu'}.md")
    parser.add_argument("--one", nargs="+", metavar="NAME", help=argparse.SUPPRESS)  # a case, and its variants
    options = parser.parse_args()
    if options.one:
        case, *variants = options.one
        sys.stdout.write(json.dumps(measured_here(case, variants, options.steps, options.rounds)) + "\n")
        return
    machine = torch.cuda.get_device_name() if GPU else f"{platform.machine()}, {torch.get_num_threads()} threads"
    lines = ["# Speed and memory", "",
             f"{time.strftime('%Y-%m-%d')}, {machine}, PyTorch {torch.__version__}, Python "
             f"{platform.python_version()}, ComfyUI {comfyui_version.__version__}; {options.steps} steps, medians of "
             f"{options.rounds} rounds. \"Over the floor\": compared with as many calls of the bare model in the same "
             "round. Made by `python dev.py bench`.", ""]
    for case in options.cases:
        rows = []
        variants = CASES[case].variants
        for together in [variants] if GPU else [[variant] for variant in variants]:
            say(f"{case}: {', '.join(together)}")
            rows += measured_apart(case, together, options.steps, options.rounds)
        floor_peak = statistics.median(row.floor_peak_bytes for row in rows)
        lines += [f"### {case}", "", f"The floor's peak is {floor_peak / 1e9:.2f} GB.", "",
                  "| | seconds | over the floor | model calls | peak memory over the floor | features of one picture |",
                  "|---|---|---|---|---|---|", *map(line, variants, rows), ""]
        options.out.write_text("\n".join(lines), encoding="utf-8")
    say(f"Written: {options.out}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
