"""What a training run leaves in the repository: weights in fp16, its log, a curve, reconstructions, a model card."""

import csv
import platform
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

from .pictures import centre_crop, load_pictures, to_float

SCALE = 0.18215  # of SD 1.x latents, which the UNet sees as the encoder gives them


def save_weights(autoencoder: torch.nn.Sequential, unet: torch.nn.Module, folder: Path):
    encoder, decoder = autoencoder
    parts = {"taesd_encoder": encoder.state_dict(), "taesd_decoder": decoder.state_dict(),
             "vae": {"vae_scale": torch.tensor(SCALE), "vae_shift": torch.tensor(0.0)}}
    save_file({key if part == "vae" else f"{part}.{key}": half(value) for part, state in parts.items() for key, value in state.items()},
              folder / "autoencoder.safetensors")
    save_file({key: half(value) for key, value in unet.state_dict().items()}, folder / "unet.safetensors")


def half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().to(torch.float16).contiguous()


def read_log(path: Path) -> dict[str, list[float]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def draw_curves(logs: dict[str, dict], path: Path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for axis, (name, log), label in zip(axes, logs.items(), ("held back: PSNR, dB", "held back: mean squared error of the noise")):
        axis.plot(log["step"], log["loss"], color="tab:gray", label="training loss")
        axis.set(title=name, xlabel="step", yscale="log")
        held_back = axis.twinx()
        held_back.plot(log["step"], log["held_back"], color="tab:blue")
        held_back.set_ylabel(label, color="tab:blue")
        axis.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_reconstructions(autoencoder: torch.nn.Sequential, pictures: Path, path: Path):
    """Above the pictures at 256 pixels, below what the autoencoder makes of them."""
    encoder, decoder = (part.float().cpu() for part in autoencoder)
    shown = to_float(torch.stack([centre_crop(x, 256) for x in load_pictures(sorted(pictures.glob("*.jpg")), (256,))]))
    with torch.inference_mode():
        restored = torch.cat([decoder(encoder(x[None])).clamp(0, 1) for x in shown])
    rows = torch.cat([torch.cat(list(row), -1) for row in (shown, restored)], -2)
    Image.fromarray((rows.movedim(0, -1) * 255).round().numpy().astype(numpy.uint8)).save(path, quality=88)


def write_card(logs: dict[str, dict], counts: dict[str, int], command: str, device: torch.device, networks: list[torch.nn.Module],
               path: Path):
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU cores"
    rows = [f"| {name} | {log['step'][-1]:.0f} | {log['seconds'][-1] / 3600:.2f} | {log['loss'][-1]:.5f} | {held_back} |"
            for (name, log), held_back in zip(logs.items(), (f"PSNR {logs['autoencoder']['held_back'][-1]:.2f} dB",
                                                             f"squared error of the noise {logs['unet']['held_back'][-1]:.4f}"))]
    path.write_text(CARD.format(
        sizes=[sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in networks], rows="\n".join(rows),
        command=command, machine=machine, torch=torch.__version__, python=platform.python_version(), **counts))


def write_report(autoencoder: torch.nn.Sequential, unet: torch.nn.Module, run: Path, folder: Path, counts: dict[str, int], command: str,
                 device: torch.device, pictures: Path):
    """`run` holds the logs; `counts` are the pictures found and drawn to train on, and those held back; `pictures` are those to show."""
    folder.mkdir(exist_ok=True)
    save_weights(autoencoder, unet, folder)
    logs = {}
    for name in ("autoencoder", "unet"):
        shutil.copyfile(run / f"{name}.csv", folder / f"{name}.csv")
        logs[name] = read_log(folder / f"{name}.csv")
    draw_curves(logs, folder / "loss.png")
    write_card(logs, counts, command, device, [autoencoder, unet], folder / "README.md")
    draw_reconstructions(autoencoder, pictures, folder / "reconstructions.jpg")


CARD = """# A miniature Stable Diffusion

The demo's model, so that StyleID can be seen and measured without a checkpoint. It is small and knows about a thousand pictures: good for
inverting and restyling a picture, not for making one from nothing.

- `autoencoder.safetensors`: {sizes[0]:.1f} million parameters in TAESD's layout (8x smaller, 4 channels), trained from
  nothing for squared error.
- `unet.safetensors`: {sizes[1]:.1f} million parameters in SD 1.x's layout (12 output blocks, self-attention in 3 to 11), noise
  prediction on SD 1.x's schedule, loss weighted by min-SNR with 5. The attention has heads of 16 channels. Its prompts are one fixed
  token each: the empty prompt, a photograph, a western painting, a chinese painting.

Weights are the exponential moving average (0.999), stored in float16.

## Training

    {command}

| | steps | hours | last training loss | held back |
|---|---|---|---|---|
{rows}

On {machine}, PyTorch {torch}, Python {python}; bfloat16 autocast.

![loss](loss.png)

Above pictures that were not trained on, below what the autoencoder restores at 256 pixels:

![reconstructions](reconstructions.jpg)

## Data

{found} pictures to train on, {held_back} held back (every tenth): a COCO 2017 sample and the Kodak suite (photographs), works of
painters who died by 1944, Met Open Access (western paintings), Song and Ming landscapes (chinese paintings). Beside them {drawn} pictures
of strokes and dots that the script draws at random. The pictures are not part of the repository. StyleID's own 20 contents and 40
styles, and what the demo and the tests show, were never trained on.
"""
