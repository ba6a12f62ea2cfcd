"""What a sampling takes with one style and with two: python -m tools.bench.styles

On random weights and random features, on which speed does not depend; medians of rounds in which all take their turn.
"""

import platform
import statistics
import sys
import time

import torch

import tools.in_process  # noqa: F401

# isort: split
import comfyui_version

from ..demo.transfer import sample_custom
from ..host import ROOT, say
from ..miniature.unet import WIDE_HEADS
from ..pack import load_pack
from .speed import CASES, GPU, conditioning, random_model

CASE = "SD 1.5, 512 x 512"
SMALL = CASES[CASE]._replace(config=WIDE_HEADS)  # a CPU would take minutes for each call
STEPS, ROUNDS = 2, 5
LEFT = torch.zeros(1, 512, 512)
LEFT[..., :256] = 1
VARIANTS = {  # the inputs of each Inject Style K/V
    "model calls alone": [],
    "one style": [{}],
    "two styles in two halves": [dict(mask=LEFT), dict(mask=1 - LEFT)],
    "two styles over the whole picture": [dict(weight=0.5), dict(weight=0.5)],
    "one style at weight 0.5": [dict(weight=0.5)],
    "one style, auto_temperature": [dict(auto_temperature=True)],
}


def seconds(model, positive, sigmas, noise) -> float:
    started = time.perf_counter()
    sample_custom(model, positive, sigmas, noise)
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main():
    case = CASES[CASE] if GPU else SMALL
    pack, model, positive = load_pack(), random_model(case), conditioning(case)
    latents = [{"samples": torch.randn(1, 4, case.side, case.side)} for _ in range(3)]
    [recording] = pack.CaptureSelfAttention(model=model, blocks=case.blocks)
    (noise, content, sigmas), *styles = [pack.DDIMInvert(model=recording, latent=latent, positive=positive,
                                                         steps=STEPS, schedule="ddim")
                                         for latent in latents]
    models = {}
    for name, injections in VARIANTS.items():
        models[name] = model
        for (_, style, _), inputs in zip(styles, injections):
            [models[name]] = pack.InjectStyleKV(model=models[name], content_features=content, style_features=style,
                                                **inputs)
    taken = {name: [] for name in VARIANTS}
    for number in range(ROUNDS + 1):
        say(f"Round {number} of {ROUNDS}")
        for name, variant in models.items():
            taken[name].append(seconds(variant, positive, sigmas, noise))
    rounds = {name: times[1:] for name, times in taken.items()}  # the first warms up
    lines = ["# Time of several styles", "",
             f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {torch.get_num_threads()} threads, PyTorch "
             f"{torch.__version__}, ComfyUI {comfyui_version.__version__}: "
             f"{CASE}{'' if GPU else ' in a tenth of the width'}, {STEPS} sampling steps, medians of {ROUNDS} rounds. "
             "Made by `python -m tools.bench.styles`.", "", "| | seconds | of one style |", "|---|---:|---:|"]
    for name, times in rounds.items():
        ratio = statistics.median(mine / one for mine, one in zip(times, rounds["one style"]))
        lines.append(f"| {name} | {statistics.median(times):.2f} | {ratio:.2f} |")
    (ROOT / "docs" / "speed_styles.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
