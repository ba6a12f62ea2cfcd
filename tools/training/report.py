"""What a training run leaves in the repository: weights in fp16, its log, a curve, reconstructions, a model card."""

import csv
import platform
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

from ..miniature.autoencoder import AUTOENCODER, WEIGHTS, Latents
from ..miniature.flow import MiniatureFlow
from .loop import has_bfloat16
from .pictures import load_squares, to_float

REACHED = {  # by each stage on what is held back: what the curve shows, and what the card says
    "autoencoder": ("PSNR, dB", "PSNR {0:.2f} dB"),
    "detail": ("LPIPS", "LPIPS {0:.3f}"),
    "decoder": ("LPIPS", "LPIPS {0:.3f}"),
    "unet": ("squared error of the noise", "squared error of the noise {0:.4f}"),
    "flow": ("squared error of the velocity", "squared error of the velocity {0:.4f}"),
}


def save_autoencoder(autoencoder: torch.nn.Sequential, path: Path):
    encoder, decoder = autoencoder
    parts = {"taesd_encoder": encoder.state_dict(), "taesd_decoder": decoder.state_dict(),
             "vae": {"vae_scale": torch.tensor(Latents.scale_factor), "vae_shift": torch.tensor(0.0)}}
    save_file({key if part == "vae" else f"{part}.{key}": half(value) for part, state in parts.items()
               for key, value in state.items()},
              path)


def save_network(network: torch.nn.Module, path: Path):
    save_file({key: half(value) for key, value in network.state_dict().items()}, path)


def half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().to(torch.float16).contiguous()


def read_log(path: Path) -> dict[str, list[float]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def take_logs(trained: dict[str, Path], folder: Path) -> dict[str, dict]:
    """All logs, now in `folder`: those of the stages `trained`, and the shipped ones of the others."""
    sources = {name: trained.get(name, WEIGHTS / f"{name}.csv") for name in REACHED}
    # The decoder need not have been trained alone.
    sources = {name: source for name, source in sources.items() if source.exists()}
    for name, source in sources.items():
        (folder / f"{name}.csv").write_bytes(source.read_bytes())  # which may be the same file
    return {name: read_log(folder / f"{name}.csv") for name in sources}


def draw_curves(logs: dict[str, dict], path: Path):
    figure, axes = plt.subplots(1, len(logs), figsize=(5 * len(logs), 3.4), layout="constrained")
    for axis, (name, log) in zip(axes, logs.items()):
        axis.plot(log["step"], log["loss"], color="tab:gray", label="training loss")
        axis.set(title=name, xlabel="step", yscale="log")
        held_back = axis.twinx()
        held_back.plot(log["step"], log["held_back"], color="tab:blue")
        held_back.set_ylabel(f"held back: {REACHED[name][0]}", color="tab:blue")
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


def made(device: torch.device, processes: int) -> str:
    """Where and how, for the card."""
    cores = f"{processes} CPU cores, one process each" if processes > 1 else f"{torch.get_num_threads()} CPU cores"
    machine = torch.cuda.get_device_name() if device.type == "cuda" else cores
    precision = "bfloat16 autocast" if has_bfloat16(device) else "float32"
    return f"on {machine}, PyTorch {torch.__version__}, Python {platform.python_version()}; {precision}"


def write_card(networks: dict[str, torch.nn.Module], logs: dict[str, dict], facts: dict[str, float],
               device: torch.device, path: Path):
    rows = [f"| {name} | {log['step'][-1]:.0f} | {log['seconds'][-1] / 3600:.2f} | {log['loss'][-1]:.5f} | "
            f"{REACHED[name][1].format(log['held_back'][-1])} |" for name, log in logs.items()]
    sizes = {name: sum(parameter.numel() for parameter in network.parameters()) / 1e6
             for name, network in networks.items()}
    path.write_text(CARD.format(sizes=sizes, rows="\n".join(rows), made=made(device, facts["processes"]),
                                stages=" ".join(logs),
                                steps=" ".join(f"--{name}-steps {log['step'][-1]:.0f}" for name, log in logs.items()),
                                shift=MiniatureFlow.sampling_settings["shift"], **facts))


def write_report(networks: dict[str, torch.nn.Module], trained: dict[str, Path], folder: Path, facts: dict[str, float],
                 device: torch.device, pictures: Path):
    """`networks` are all three; `trained` are the logs of the stages of this run; `pictures` are those to show.

    `facts` are for the card: how many pictures were `found`, `painted` and `drawn` to train on, and `held_back`; the
    `psnr`, `lpips` and `fine_energy` that the autoencoder reaches on these; the `seed`, the `batch_scale`, and the
    number of `processes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_autoencoder(networks["autoencoder"], folder / AUTOENCODER.name)
    for name in ("unet", "flow"):
        save_network(networks[name], folder / f"{name}.safetensors")
    logs = take_logs(trained, folder)
    draw_curves(logs, folder / "loss.png")
    write_card(networks, logs, facts, device, folder / "README.md")
    draw_reconstructions(networks["autoencoder"], pictures, folder / "reconstructions.jpg")


CARD = """# Miniature models

The demo's models, so that StyleID can be seen and measured without a checkpoint. They are small and know about a thousand pictures: good
for inverting and restyling a picture, not for making one from nothing.

- `autoencoder.safetensors`: {sizes[autoencoder]:.1f} million parameters in TAESD's layout (8x smaller, 8 channels), trained for
  squared error, then for absolute error and LPIPS (AlexNet), so that it draws fine detail instead of a blur.
- `unet.safetensors`: {sizes[unet]:.1f} million parameters in SD 1.x's layout (12 output blocks, self-attention in 3 to 11), noise
  prediction on SD 1.x's schedule, loss weighted by min-SNR with 5. Its attention has heads of 32 channels. In the blocks that StyleID
  injects into it is also taught to look at parts: its divergence from how alike the places of gray pictures are to AlexNet, within a
  picture and between two, is a part of the loss.
- `flow.safetensors`: {sizes[flow]:.1f} million parameters in the layout of Lumina 2 and Z-Image (6 layers of 256 channels, 8 heads,
  tokens of 2 x 2 latents). It predicts the velocity of a rectified flow, at sigmas that are logit-normal, and samples with shift {shift:g}.

UNet and transformer have the same prompts, one fixed token each: the empty prompt, a photograph, a western painting, a chinese painting.
Weights are the exponential moving average (0.999, of the stage *detail* 0.995), stored in float16.

## Training

    python -m tools.bench.registry_weights DIR
    python dev.py train --images DIR --weights DIR --only {stages} {steps} \\
        --batch-scale {batch_scale} --processes {processes} --seed {seed}

| | steps | hours | last training loss | held back |
|---|---|---|---|---|
{rows}

The last run was {made}.
The autoencoder reaches a PSNR of {psnr:.2f} dB, LPIPS {lpips:.3f} and fine energy {fine_energy:.2f}: the power at more than a quarter of
Nyquist's frequency, as a share of the original's. `--only STAGE` trains some of the stages, `--on` trains the shipped networks on.

![loss](loss.png)

Above pictures that were not trained on, below what the autoencoder restores at 256 pixels:

![reconstructions](reconstructions.jpg)

## Data

{found} pictures to train on, {held_back} held back (every tenth): a COCO 2017 sample and the Kodak suite (photographs), works of
painters who died by 1944, Met Open Access (western paintings), Song and Ming landscapes (chinese paintings). Beside them {drawn} pictures
of strokes and dots that the script draws at random, and {painted} of the others in such strokes and colors, along their own edges. The
pictures are not part of the repository. StyleID's own 20 contents and 40 styles, and what the demo and the tests show, were never
trained on.

Of the samples of UNet and transformer a quarter are photographs, a quarter paintings, and a half are drawn or painted by the script.
"""
