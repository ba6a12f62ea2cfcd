"""What a training run leaves in the repository: weights in fp16, its log, a curve, reconstructions, a model card."""

import csv
import platform
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

from ..miniature.autoencoder import AUTOENCODER, FLOW_AUTOENCODER
from ..miniature.flow import MiniatureFlow
from ..miniature.unet import WEIGHTS
from .loop import has_bfloat16
from .pictures import load_squares, to_float

SCALE = 0.18215  # of SD 1.x latents, which the UNet sees as the encoder gives them


def save_autoencoder(autoencoder: torch.nn.Sequential, path: Path):
    encoder, decoder = autoencoder
    parts = {"taesd_encoder": encoder.state_dict(), "taesd_decoder": decoder.state_dict(),
             "vae": {"vae_scale": torch.tensor(SCALE), "vae_shift": torch.tensor(0.0)}}
    save_file({key if part == "vae" else f"{part}.{key}": half(value) for part, state in parts.items() for key, value in state.items()},
              path)


def save_network(network: torch.nn.Module, path: Path):
    save_file({key: half(value) for key, value in network.state_dict().items()}, path)


def half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().to(torch.float16).contiguous()


def read_log(path: Path) -> dict[str, list[float]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def take_logs(names: tuple[str, ...], run: Path, folder: Path) -> dict[str, dict]:
    """All logs, now in `folder`: those of `run`, and the shipped ones of what it did not train."""
    for name in names:
        source = (run if (run / f"{name}.csv").exists() else WEIGHTS) / f"{name}.csv"
        (folder / source.name).write_bytes(source.read_bytes())  # which may be the same file
    return {name: read_log(folder / f"{name}.csv") for name in names}


def draw_curves(logs: dict[str, dict], path: Path):
    figure, axes = plt.subplots(1, len(logs), figsize=(5 * len(logs), 3.4), layout="constrained")
    for axis, (name, log), label in zip(axes, logs.items(), ("PSNR, dB", "LPIPS", "mean squared error of the noise")):
        axis.plot(log["step"], log["loss"], color="tab:gray", label="training loss")
        axis.set(title=name, xlabel="step", yscale="log")
        held_back = axis.twinx()
        held_back.plot(log["step"], log["held_back"], color="tab:blue")
        held_back.set_ylabel(f"held back: {label}", color="tab:blue")
        axis.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_reconstructions(autoencoder: torch.nn.Sequential, pictures: Path, path: Path):
    """Above the pictures at 256 pixels, below what the autoencoder makes of them."""
    encoder, decoder = (part.float().cpu() for part in autoencoder)
    shown = to_float(load_squares(sorted(pictures.glob("*.jpg")), 256))
    with torch.inference_mode():
        restored = torch.cat([decoder(encoder(x[None])).clamp(0, 1) for x in shown])
    rows = torch.cat([torch.cat(list(row), -1) for row in (shown, restored)], -2)
    Image.fromarray((rows.movedim(0, -1) * 255).round().numpy().astype(numpy.uint8)).save(path, quality=88)


def made(device: torch.device, cores: str) -> str:
    """Where and how, for a card; `cores` if it was not a GPU."""
    machine = torch.cuda.get_device_name() if device.type == "cuda" else cores
    precision = "bfloat16 autocast" if has_bfloat16(device) else "float32"
    return f"On {machine}, PyTorch {torch.__version__}, Python {platform.python_version()}; {precision}."


def write_card(logs: dict[str, dict], facts: dict[str, float], device: torch.device, networks: list[torch.nn.Module], path: Path):
    held_back = ("PSNR {0:.2f} dB", "LPIPS {0:.3f}, PSNR {psnr:.2f} dB, fine energy {fine_energy:.2f}",
                 "squared error of the noise {0:.4f}")
    rows = [f"| {name} | {log['step'][-1]:.0f} | {log['seconds'][-1] / 3600:.2f} | {log['loss'][-1]:.5f} | "
            f"{reached.format(log['held_back'][-1], **facts)} |" for (name, log), reached in zip(logs.items(), held_back)]
    steps = " ".join(f"--{name}-steps {log['step'][-1]:.0f}" for name, log in logs.items())
    path.write_text(CARD.format(
        sizes=[sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in networks], rows="\n".join(rows),
        steps=steps, made=made(device, f"{torch.get_num_threads()} CPU cores"), **facts))


def write_flow_report(autoencoder: torch.nn.Sequential, network: torch.nn.Module, run: Path, folder: Path, facts: dict[str, float],
                      device: torch.device, pictures: Path):
    """Weights, logs and card of the transformer and its autoencoder; `pictures` are those to show.

    `facts` say how many pictures were `found`, `painted` by the script and `held_back`; the `psnr`, `lpips` and `fine_energy` that the
    autoencoder reaches on these; the `seed`, and how many `processes` there were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_autoencoder(autoencoder, folder / FLOW_AUTOENCODER.name)
    save_network(network, folder / "flow.safetensors")
    logs = take_logs(("flow_autoencoder", "flow"), run, folder)
    (folder / "flow.md").write_text(FLOW_CARD.format(
        size=sum(parameter.numel() for parameter in network.parameters()) / 1e6, shift=MiniatureFlow.sampling_settings["shift"],
        made=made(device, f"{facts['processes']} CPU cores, one process each"), steps=[int(log["step"][-1]) for log in logs.values()],
        hours=[log["seconds"][-1] / 3600 for log in logs.values()], loss=[log["loss"][-1] for log in logs.values()],
        reached=logs["flow"]["held_back"][-1], **facts))
    draw_reconstructions(autoencoder, pictures, folder / "flow_reconstructions.jpg")


def write_report(autoencoder: torch.nn.Sequential, unet: torch.nn.Module, run: Path, folder: Path, facts: dict[str, float],
                 device: torch.device, pictures: Path):
    """`run` holds the logs of what was trained now; `pictures` are those to show.

    `facts` are for the card: how many pictures were `found` and `drawn` to train on, with `strokes` for the decoder, and how many were
    `held_back`; the `psnr` and `fine_energy` that the autoencoder reaches on these; the `seed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_autoencoder(autoencoder, folder / AUTOENCODER.name)
    save_network(unet, folder / "unet.safetensors")
    logs = take_logs(("autoencoder", "decoder", "unet"), run, folder)
    draw_curves(logs, folder / "loss.png")
    write_card(logs, facts, device, [autoencoder, unet], folder / "README.md")
    draw_reconstructions(autoencoder, pictures, folder / "reconstructions.jpg")


CARD = """# A miniature Stable Diffusion

The demo's model, so that StyleID can be seen and measured without a checkpoint. It is small and knows about a thousand pictures: good for
inverting and restyling a picture, not for making one from nothing.

- `autoencoder.safetensors`: {sizes[0]:.1f} million parameters in TAESD's layout (8x smaller, 4 channels), trained from
  nothing for squared error; then the decoder alone for absolute error and LPIPS (AlexNet), so that it draws fine detail instead of a blur.
- `unet.safetensors`: {sizes[1]:.1f} million parameters in SD 1.x's layout (12 output blocks, self-attention in 3 to 11), noise
  prediction on SD 1.x's schedule, loss weighted by min-SNR with 5. The attention has heads of 16 channels. Its prompts are one fixed
  token each: the empty prompt, a photograph, a western painting, a chinese painting.

Weights are the exponential moving average (0.999, of the decoder 0.99), stored in float16.

## Training

    python -m tools.bench.registry_weights DIR
    python dev.py train --images DIR --weights DIR {steps} --seed {seed}

| | steps | hours | last training loss | held back |
|---|---|---|---|---|
{rows}

{made} Fine energy is the power at more than a quarter of Nyquist's
frequency, as a share of the original's. `--decoder-only` trains the shipped decoder on, and leaves the encoder and the UNet as they are.

![loss](loss.png)

Above pictures that were not trained on, below what the autoencoder restores at 256 pixels:

![reconstructions](reconstructions.jpg)

## Data

{found} pictures to train on, {held_back} held back (every tenth): a COCO 2017 sample and the Kodak suite (photographs), works of
painters who died by 1944, Met Open Access (western paintings), Song and Ming landscapes (chinese paintings). Beside them {drawn} pictures
of strokes and dots that the script draws at random, and for the decoder {strokes} more with strokes of 4 to 16 pixels. The pictures are
not part of the repository. StyleID's own 20 contents and 40 styles, and what the demo and the tests show, were never trained on.
"""


FLOW_CARD = """# A miniature flow transformer

So that StyleID can be seen on a transformer. It has the prompts of the [UNet](README.md), and an autoencoder of its own.

- `flow_autoencoder.safetensors`: in TAESD's layout (8x smaller), that of the UNet with 8 channels instead of 4, trained on for absolute
  error and LPIPS (AlexNet). Four channels keep neither green nor narrow strokes.
- `flow.safetensors`: {size:.1f} million parameters in the layout of Lumina 2 and Z-Image (6 layers of 256 channels, 8 heads, tokens of
  2 x 2 latents). It predicts the velocity of a rectified flow, and samples with shift {shift:g}.

Weights are the exponential moving average (0.995 and 0.999), stored in float16.

    python dev.py train --flow-only --images DIR --weights DIR --flow-autoencoder-steps {steps[0]} \\
        --flow-steps {steps[1]} --processes {processes} --seed {seed}

| | steps | hours | last training loss | held back |
|---|---|---|---|---|
| autoencoder | {steps[0]} | {hours[0]:.2f} | {loss[0]:.4f} | LPIPS {lpips:.3f}, PSNR {psnr:.2f} dB, fine energy {fine_energy:.2f} |
| transformer | {steps[1]} | {hours[1]:.2f} | {loss[1]:.4f} | squared error of the velocity {reached:.4f} |

{made} Batches of latents from 16 x 16 to 48 x 48, sigmas logit-normal.
A third of the samples are photographs, a third paintings, and a third are of the {painted} pictures of strokes that the script draws.
{found} other pictures to train on and {held_back} held back, as for the [UNet](README.md).

Above pictures that were not trained on, below what the autoencoder restores at 256 pixels:

![reconstructions](flow_reconstructions.jpg)
"""
