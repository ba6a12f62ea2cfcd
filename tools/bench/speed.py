"""What the method costs beyond its model calls: python dev.py bench.

On the same weights: as many calls of the bare model (the floor), this pack with features kept in several ways, and the
straightforward way; or a sampling with several styles. Each runs in turn with the floor. For Linux.
"""

import argparse
import ctypes
import gc
import platform
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

import tools.in_process  # noqa: F401

# isort: split
import comfyui_version
from comfy.samplers import calculate_sigmas

from styleid_core.storage import STORAGES, size

from ..demo.transfer import Inverted, sample_custom
from ..host import ROOT, say
from ..pack import load_pack, stylize
from ..protocol.stylizer import features_in_file
from .cases import CASES, GPU, ON_CPU, ON_GPU, Case, Flux, conditioning, random_model
from .page import table
from .straightforward import capturing, injecting

COLUMNS = ["", "seconds", "over the floor", "model calls", "peak memory", "over the floor", "features of one picture"]


class Bench:
    """A model that counts its calls, and ways to use it on latents of noise. A way gives the bytes of one picture's
    features, where they can be seen.
    """

    def __init__(self, case: Case, steps: int):
        self.pack, self.steps, self.calls = load_pack(), steps, []
        self.model, self.positive = random_model(case), conditioning(case)
        network = self.model.model.diffusion_model
        # Recomputing goes around the network's own forward, but not around this.
        embedding = network.time_in if case.family is Flux else network.time_embed
        embedding.register_forward_hook(lambda *_: self.calls.append(1))
        shape = case.batch, case.config["in_channels"], case.side, case.side
        self.content, self.style, other = ({"samples": torch.randn(shape)} for _ in range(3))
        self.floor_steps = 3 * steps
        if case.only_sampling:
            self.inverted = [self.invert(self.recording(), latent) for latent in (self.content, self.style, other)]
            self.floor_steps = steps

    def recording(self, **options):
        return self.pack.CaptureSelfAttention(model=self.model, **options)[0]

    def invert(self, model, latent: dict) -> Inverted:
        return Inverted(*self.pack.DDIMInvert(model=model, latent=latent, positive=self.positive, steps=self.steps,
                                              schedule="ddim"))

    def sample(self, model, content: Inverted, style: Inverted):
        [start] = self.pack.LatentAdaIN(content=content.noise, style=style.noise)
        sample_custom(model, self.positive, content.sigmas, start)

    def floor(self):
        sigmas = calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", self.floor_steps)
        sample_custom(self.model, self.positive, sigmas, self.content)

    def five_nodes(self, **options) -> int:
        recording = self.recording(**options)
        self.inverted = [self.invert(recording, latent) for latent in (self.content, self.style)]
        return self.inject({})

    def inject(self, *inputs_of_styles: dict) -> int:
        """Only the sampling, with inputs of Inject Style K/V for each style."""
        model, (content, *styles) = self.model, self.inverted
        for style, inputs in zip(styles, inputs_of_styles):
            [model] = self.pack.InjectStyleKV(model=model, content_features=content.features,
                                              style_features=style.features, **inputs)
        self.sample(model, content, styles[0])
        return size(content.features.source)

    def save_and_load(self):
        with TemporaryDirectory() as folder:
            features_in_file(self.inverted[-1], Path(folder) / "style.safetensors")

    def one_node(self, **options):
        # Copies, of which the node remembers no inversion.
        content, style = ({"samples": latent["samples"].clone()} for latent in (self.content, self.style))
        stylize(self.pack, model=self.model, content=content, style=style, positive=self.positive, steps=self.steps,
                schedule="ddim", **options)

    def straightforward(self) -> int:
        blocks = self.recording().model_options["transformer_options"]["styleid_capture"].blocks
        (content, q_content), (style, kv_style) = (capturing(self.model, blocks) for _ in range(2))
        inverted = self.invert(content, self.content), self.invert(style, self.style)
        self.sample(injecting(self.model, blocks, q_content, kv_style), *inverted)
        return size(q_content)


FLOOR = {"model calls alone": Bench.floor}
DTYPES, DEVICES = (("auto", "int8"), ("gpu", "cpu")) if GPU else (STORAGES, ("cpu",))
TRANSFERS = FLOOR | {f"{dtype}, {device}": partial(Bench.five_nodes, feature_dtype=dtype, feature_device=device)
                     for dtype in DTYPES for device in DEVICES} | {
    "recompute": partial(Bench.five_nodes, feature_device="recompute"),
    "one node": Bench.one_node,
    "one node, recompute": partial(Bench.one_node, feature_device="recompute"),
}
LEFT = (torch.arange(512) < 256).float().expand(1, 512, 512)
SAMPLINGS = FLOOR | {
    "one style": lambda bench: bench.inject({}),
    "two styles in two halves": lambda bench: bench.inject(dict(mask=LEFT), dict(mask=1 - LEFT)),
    "two styles over the whole picture": lambda bench: bench.inject(dict(weight=0.5), dict(weight=0.5)),
    "one style at weight 0.5": lambda bench: bench.inject(dict(weight=0.5)),
    "one style, auto_temperature": lambda bench: bench.inject(dict(auto_temperature=True)),
    "saving and loading a style's features": Bench.save_and_load,
}


def ways_of(case: Case) -> dict[str, Callable[[Bench], int | None]]:
    if case.only_sampling:
        return SAMPLINGS
    return TRANSFERS if case.family is Flux else TRANSFERS | {"straightforward": Bench.straightforward}


class Used(NamedTuple):
    seconds: float
    peak: int  # bytes of GPU memory as torch counts it, or of this process


def used(action: Callable, *arguments) -> Used:
    gc.collect()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what is free, so that it does not count
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    started = time.perf_counter()
    action(*arguments)
    if GPU:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if GPU:
        return Used(seconds, torch.cuda.max_memory_allocated())
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return Used(seconds, 1024 * int(kilobytes))


def rows(case: Case, steps: int, rounds: int) -> Iterator[list[str]]:
    """Medians of the rounds."""
    torch.manual_seed(0)
    bench = Bench(case, steps)
    for name, way in ways_of(case).items():
        say(name)
        bench.calls.clear()
        feature_bytes = way(bench)  # and warm up
        calls = len(bench.calls)
        pairs = [(used(way, bench), used(bench.floor)) for _ in range(rounds)]
        yield [name, f"{median(run.seconds for run, _ in pairs):.2f}",
               f"{median(run.seconds / floor.seconds for run, floor in pairs) - 1:+.1%}", str(calls),
               f"{median(run.peak for run, _ in pairs) / 1e6:.0f} MB",
               f"{median(run.peak - floor.peak for run, floor in pairs) / 1e6:+.0f} MB",
               f"{feature_bytes / 1e6:.1f} MB" if feature_bytes else ""]


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=ON_GPU if GPU else ON_CPU)
    parser.add_argument("--steps", type=int, help="default: each case's own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / f"speed_{'gpu' if GPU else 'cpu'}.md")
    options = parser.parse_args()
    machine = torch.cuda.get_device_name() if GPU else f"{platform.machine()}, {torch.get_num_threads()} threads"
    lines = ["# Speed and memory", "",
             f"{time.strftime('%Y-%m-%d')}, {machine}, PyTorch {torch.__version__}, Python "
             f"{platform.python_version()}, ComfyUI {comfyui_version.__version__}; medians of {options.rounds} rounds. "
             '"Over the floor": compared with as many calls of the bare model in the same round. '
             "Made by `python dev.py bench`."]
    for name in options.cases:
        case, steps = CASES[name], options.steps or CASES[name].steps
        lines += ["", f"### {name}, {steps} steps", ""]
        for line in table(COLUMNS, rows(case, steps, options.rounds)):
            lines.append(line)
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
