"""A UNet in SD 1.x's layout, trained to predict the noise of SD 1.x's schedule, weighted by min-SNR (Hang et al. 2023),
with an attention that looks at parts.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ..miniature.unet import PROMPTS, TRAINED_UNET, MiniatureSD, load_unet, prompt_token
from .autoencoder import encode_all
from .loop import Task, gathered, half_precision, own_part
from .parts import attention_error, load_alexnet, seen_queries_and_keys
from .pictures import Pool, load_pictures, load_squares, sent

SHORT_SIDES = (160, 256, 384)
BATCHES = ((16, 32), (32, 8))  # (latent side, batch), in turn: the larger teaches attention over more tokens
# The last are painted and drawn.
SHARES = {"photograph": 0.26, "western painting": 0.16, "chinese painting": 0.08, "empty prompt": 0.50}
MAX_SNR = 5.0
PARTS_WEIGHT = 0.05  # of the attention's error, taken of one sample in eight, as decoder and AlexNet take long
EMPTY_PROMPT = 0.7  # share of samples that see the empty prompt whatever their folder
PROMPT_OF_FOLDER = {"coco256": "photograph", "kodak24": "photograph", "paintings_western": "western painting",
                    "paintings_met_cc0": "western painting", "paintings_chinese": "chinese painting"}
VALIDATION_TIMESTEPS = (50, 250, 500, 750, 950)


def training_latents(encoder: torch.nn.Module, paths: list[Path], folder: Path,
                     device: torch.device) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Latents of all pictures at each size, also mirrored, and their prompts' indices; kept in `folder`, as they take
    minutes.
    """
    kept, origin = folder / "latents.pt", [fingerprint(encoder), *map(str, paths)]
    known = torch.load(kept) if kept.exists() else {}
    if known.get("origin") != origin:
        latents = []
        for side in SHORT_SIDES:
            pictures = load_pictures(paths, (side,))
            pictures += [picture.flip(-1) for picture in pictures]
            latents += gathered(encode_all(encoder, own_part(pictures)[0], device))
        known = {"origin": origin, "latents": latents}
        torch.save(known, kept)
    return known["latents"], torch.tensor([label_of(path) for path in paths] * 2 * len(SHORT_SIDES))


def fingerprint(network: torch.nn.Module) -> float:
    """Another one for other weights."""
    return sum(parameter.double().abs().sum().item() for parameter in network.parameters())


def shares(labels: torch.Tensor) -> torch.Tensor:
    """How often each sample is taken, by its prompt's index."""
    return torch.tensor([SHARES[prompt] for prompt in PROMPTS])[labels] / labels.bincount()[labels]


def untrained_unet(seed: int):
    """The MODEL, to predict no noise at first."""
    return load_unet(seed, output_gain=0.0, unet_config=TRAINED_UNET, family=MiniatureSD)


def unet_task(patcher, autoencoder: torch.nn.Sequential, training: list[Path], held_back: list[Path], folder: Path,
              seed: int, device: torch.device, batch_scale: int, weights: Path | None) -> Task:
    """`weights` is the folder of AlexNet, torch hub's by default."""
    (encoder, decoder), alexnet = autoencoder, load_alexnet(weights, device)
    latents, labels = training_latents(encoder, training, folder, device)
    pool = Pool(latents, device, shares(labels))
    test = torch.stack(encode_all(encoder, load_squares(held_back, 256), device))
    alphas = alphas_cumprod(patcher.model.model_sampling).to(device)
    tokens = torch.cat([prompt_token(prompt) for prompt in PROMPTS]).to(device)

    def errors(network, z, labels, timesteps, noise):
        """Mean squared error of the predicted noise of each sample."""
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        with half_precision(device):
            predicted = network(alpha.sqrt() * z + (1 - alpha).sqrt() * noise, timesteps, context=tokens[labels])
        return (predicted.float() - noise).square().mean((1, 2, 3))

    def loss(network, generator):
        z, prompts = random_batch(pool, labels, BATCHES, batch_scale, generator)
        timesteps = torch.randint(1000, (len(z),), generator=generator)
        own = own_part(z, prompts, timesteps, torch.randn(z.shape, generator=generator))
        z, prompts, timesteps, noise = (sent(part, device) for part in own)
        snr = alphas[timesteps] / (1 - alphas[timesteps])
        with seen_queries_and_keys(network) as seen:
            error = ((MAX_SNR / snr).clamp(max=1) * errors(network, z, prompts, timesteps, noise)).mean()
        with torch.no_grad(), half_precision(device):
            pictures = decoder(z[:max(2, len(z) // 8)]).float().clamp(0, 1)
        return error + PARTS_WEIGHT * attention_error(seen, alexnet, pictures)

    return Task("unet", patcher.model.diffusion_model, loss,
                validation(errors, test, VALIDATION_TIMESTEPS, seed, device))


def validation(errors: Callable[..., torch.Tensor], test: torch.Tensor, levels: tuple[float, ...], seed: int,
               device: torch.device) -> Callable[[torch.nn.Module], float]:
    """A network's mean of `errors` with the empty prompt: latents `test` (B, C, H, W), at each noise level, always in
    the same noise.
    """
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(seed))
    batches = [(z.to(device), e.to(device)) for z, e in zip(test.split(16), noise.split(16))]

    def validate(network):
        return torch.cat([
            errors(network, z, torch.zeros(len(z), dtype=torch.long, device=device),
                   torch.full((len(z),), level, device=device), e)
            for level in levels for z, e in batches]).mean().item()

    return validate


def random_batch(pool: Pool, labels: torch.Tensor, sizes: tuple[tuple[int, int], ...], batch_scale: int,
                 generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (batch_scale * B, C, side, side) of one of the `sizes` (side, B), and the index of each one's prompt."""
    side, batch = sizes[torch.randint(len(sizes), (1,), generator=generator).item()]
    z, chosen = pool.crops(batch * batch_scale, side, generator)
    empty = torch.rand(len(z), generator=generator) < EMPTY_PROMPT
    return z, labels[chosen].masked_fill(empty, 0)


def label_of(path: Path) -> int:
    """Index of the prompt that stands for the picture's folder: 0, the empty prompt, where none does."""
    return PROMPTS.index(PROMPT_OF_FOLDER.get(path.parent.name, PROMPTS[0]))


def alphas_cumprod(model_sampling) -> torch.Tensor:
    """alpha_bar (1000,) of ComfyUI's sigmas (sigma^2 = (1 - alpha_bar) / alpha_bar)."""
    return 1 / (model_sampling.sigmas.square() + 1)
