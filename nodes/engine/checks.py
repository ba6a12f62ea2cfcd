"""Every refusal of what a person connects or sets, in a sentence that says what to change."""

import math
from collections.abc import Callable
from pathlib import PurePath

import torch

from ...styleid_core.blocks import Block, listed, quote
from ...styleid_core.features import Features
from ...styleid_core.masks import kept_tokens
from ...styleid_core.settings import InversionSettings
from . import host, logger

# Settings

def require_span(start_percent: float, end_percent: float):
    if start_percent >= end_percent:
        raise ValueError(f"start_percent {start_percent:g} is not below end_percent {end_percent:g}, so nothing would "
                         "be injected.")


def require_guidance(cfg: float, negative: list | None, inject_into: str):
    if cfg != 1 and negative is None:
        raise ValueError(f"cfg {cfg:g} compares with a negative prompt, and none is connected. Connect negative, or "
                         "set cfg to 1.")
    if inject_into == "uncond" and cfg == 1:
        raise ValueError("The setting inject_into is uncond, and at cfg 1 the negative prompt is not evaluated, so "
                         "nothing would be injected. Raise cfg above 1, or inject into both.")


# Latents

def require_picture(latent: dict, name: str) -> torch.Tensor:
    """The samples (B, C, H, W), or (B, C, 1, H, W) of a video model, of a LATENT that holds a picture; ValueError for
    another shape, NaN, only zeros, or a single value.
    """
    samples = latent["samples"]
    if samples.is_nested:
        raise ValueError(f"The {name} latent holds several parts, as a video with its sound does. Connect a picture "
                         "through VAE Encode.")
    if samples.ndim != 4 and not (samples.ndim == 5 and samples.shape[2] == 1):
        raise ValueError(f"The {name} latent has shape {list(samples.shape)}, and that of a picture is [batch, "
                         "channels, height, width]. Connect a picture through VAE Encode; video and audio latents are "
                         "not supported.")
    if not torch.isfinite(samples).all():
        raise ValueError(f"The {name} latent contains NaN or infinity, which a VAE in fp16 may produce. "
                         "Start ComfyUI with --fp32-vae, or use another VAE.")
    if not torch.count_nonzero(samples):
        raise ValueError(f"The {name} latent is empty. Connect a picture through VAE Encode.")
    require_noise_mask(latent, name)
    if samples[0, 0].numel() < 2:
        raise ValueError(f"The {name} latent is 1x1, and a single value has no deviation. Encode a larger picture.")
    return samples


def require_noise_mask(latent: dict, name: str):
    """ValueError for a mask of a LATENT that holds several parts, NaN, or nothing."""
    mask = latent.get("noise_mask")
    if mask is None:
        return
    wrong = ("holds several parts" if mask.is_nested else "is empty" if not mask.numel() else
             "contains NaN" if not mask.isfinite().all() else "")
    if wrong:
        raise ValueError(f"The mask of the {name} latent {wrong}. Connect another mask, or none.")


def require_pictures(content: dict, style: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples of both LATENTs; ValueError as `require_picture`, or for batches that cannot be paired."""
    z_content, z_style = require_picture(content, "content"), require_picture(style, "style")
    if len(z_content) != len(z_style) and 1 not in (len(z_content), len(z_style)):
        raise ValueError(f"The batch has {len(z_content)} contents and {len(z_style)} styles. "
                         "Give one style for all, or as many as contents.")
    return z_content, z_style


def require_mask(name: str, mask: torch.Tensor) -> torch.Tensor:
    """A MASK (H, W) or (B, H, W) as (B, H, W) in 0..1; ValueError for another shape, or NaN."""
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or not mask.numel():
        raise ValueError(f"The {name} has shape {list(mask.shape)}, and that of a mask is [batch, height, width]. "
                         "Connect a mask.")
    if not torch.isfinite(mask).all():
        raise ValueError(f"The {name} contains NaN. Connect another mask, or none.")
    return mask.clamp(0, 1)


def require_measurable(weights: torch.Tensor):
    """ValueError for weights (B, 1, ..., h, w) over a latent of which less than two values are left."""
    if ((weights > 0).flatten(1).sum(1) < 2).any():
        raise ValueError("The style_mask leaves less than two of the latent's values to measure colors on. Paint a "
                         "larger part.")


def require_style_mask(mask: torch.Tensor, shapes: list[tuple[int, int, int]]):
    """ValueError for a mask (B, H, W) that leaves none of the tokens that a block sees, by a family's `shapes`."""
    if len(mask) != 1:
        raise ValueError(f"The style_mask holds {len(mask)} masks, and one serves all styles. Connect a single mask.")
    if any(not len(kept_tokens(mask, (height, width))) for height, width, _ in shapes):
        raise ValueError("The style_mask leaves nothing of the style at the resolution of the self-attention. Paint a "
                         "larger part.")


def require_model_channels(channels: int, frames: bool, samples: torch.Tensor, name: str):
    """`channels` is what the model works on, in `frames` or not."""
    if samples.shape[1] != channels or samples.ndim != (5 if frames else 4):
        raise ValueError(f"The {name} latent has shape {list(samples.shape)}, and this model works on [batch, "
                         f"{channels}, {'1, ' if frames else ''}height, width]. Encode the picture with the VAE of the "
                         "same checkpoint.")


def require_same_channels(content: torch.Tensor, style: torch.Tensor):
    if content.shape[1] != style.shape[1] or content.ndim != style.ndim:
        raise ValueError(f"The content latent has {content.shape[1]} channels and the style latent {style.shape[1]}"
                         f"{'' if content.ndim == style.ndim else ', and one of them has frames'}. "
                         "Encode both with the VAE of the same checkpoint.")


def warn_unused_mask(latent: dict, name: str):
    """Only a warning."""
    if "noise_mask" in latent:
        logger.warning("The mask of the %s latent is not used: the whole picture is taken.", name)


def require_prediction(samples: torch.Tensor):
    """Of a sampling run that ended in NaN: nobody would see it before a black picture, or blame the right node."""
    if not torch.isfinite(samples).all():
        raise ValueError("The model predicted NaN or infinity, as some do in fp16. Start ComfyUI with "
                         "--force-upcast-attention or --fp32-unet, or take another checkpoint.")


# Conditionings. `entries` is what is set on each of the prompts in a CONDITIONING, `percent_to_sigma` the model's.

def entries_of(conditioning: list) -> list[dict]:
    return [entry for _, entry in conditioning]


def refuse_areas(name: str, entries: list[dict]):
    if any(map(host.has_area, entries)):
        raise ValueError(f"The conditioning {name} has an area, so the model would see only a part of the picture, "
                         "where StyleID's content features do not fit. Remove Conditioning (Set Area), or limit a "
                         "prompt by Conditioning (Set Mask) with the default area.")


def require_prompts(name: str, entries: list[dict], sigmas: list[float], percent_to_sigma: Callable[[float], float]):
    """ValueError unless the prompts are evaluated for the whole picture at each of `sigmas`."""
    if not entries:
        raise ValueError(f"The conditioning {name} is empty. Connect a CLIP Text Encode: the paper's prompt is an "
                         "empty text.")
    refuse_areas(name, entries)
    for sigma in sigmas:
        if not any(host.DEFAULT in entry or host.covers(entry, sigma, percent_to_sigma) for entry in entries):
            raise ValueError(f"The conditioning {name} has no prompt at sigma {sigma:.4g}: its timestep ranges leave a "
                             "gap. Let ConditioningSetTimestepRange cover all of 0 to 1.")


def require_one_prompt(name: str, entries: list[dict], sigmas: list[float], percent_to_sigma: Callable[[float], float]):
    """The same for an inversion, which follows one prediction for the whole picture."""
    require_prompts(name, entries, sigmas, percent_to_sigma)
    if any(host.MASK in entry for entry in entries):
        raise ValueError(f"The conditioning {name} has a mask, and an inversion needs the prediction of the whole "
                         "picture. Remove Conditioning (Set Mask).")
    own = [entry for entry in entries if host.DEFAULT not in entry]
    if any(sum(host.covers(entry, sigma, percent_to_sigma) for entry in own) > 1 for sigma in sigmas):
        raise ValueError("An inversion needs one conditioning for the whole picture, and several are connected to "
                         f"{name}. Give it a single prompt (the paper's is empty), not a combined or regional one.")


def require_only_prompts(name: str, keys: set[str]):
    """ValueError for entries of a conditioning that hold another picture than that which is inverted with it."""
    if keys:
        raise ValueError(f"The conditioning {name} holds a picture that belongs to the content "
                         f"({', '.join(sorted(keys))}), and the style would be inverted with it. Give the style its "
                         "own: connect style_positive of StyleID Options, with the style's picture in its place or an "
                         "empty prompt.")


def warn_unused_conditioning(style_positive: list | None):
    """Only a warning."""
    if style_positive is not None:
        logger.warning("The style_positive of StyleID Options is not used: the style_features are inverted already.")


# Features

def require_captured(whose: str, features: Features):
    """`whose` is what stands before "features" in the name of the input."""
    if not features.blocks:
        raise ValueError(f"The {whose}features are empty. Put Capture Self-Attention between the model and the DDIM "
                         "Invert that they come from.")


def require_inverted_style(noise: torch.Tensor, features: Features, settings: InversionSettings):
    """ValueError unless these are noise and features of one inversion like that of the content."""
    if noise.shape != features.latent.shape or torch.equal(noise.cpu(), features.latent.cpu()):
        raise ValueError("With style_features, style is the noise that belongs to them. Connect noise and features of "
                         "one Load StyleID Features or DDIM Invert.")
    if features.origin is not None and features.origin.settings != settings:
        raise ValueError(f"The style_features were inverted in {features.origin.settings}. Set the same here.")


def require_same_solver(features: Features, fireflow: bool):
    """ValueError for a sampler that is, or is not, FireFlow's where the inversion was the other."""
    if features.origin is not None and (features.origin.settings.method == "fireflow") != fireflow:
        raise ValueError(f"The features come from the inversion {features.origin.settings.method}, and the sampler is "
                         f"{'FireFlow Sampler' if fireflow else 'another'}, which takes other steps. Use FireFlow "
                         "Sampler for the inversion fireflow, and only for that.")


def require_savable(noise: torch.Tensor, features: Features, readable: bool):
    """ValueError for features that make no file with this noise; `readable` unless they are computed again."""
    require_captured("", features)
    if not readable:
        raise ValueError("The features are recomputed, so there is nothing to save. Set feature_device of Capture "
                         "Self-Attention to auto.")
    if noise.shape != features.latent.shape:
        raise ValueError(f"The noise has shape {list(noise.shape)}, and the features are of a latent "
                         f"{list(features.latent.shape)}. Connect the noise and the features of one DDIM Invert.")


def require_falling_sigmas(sigmas: torch.Tensor):
    falling = sigmas.ndim == 1 and len(sigmas) > 1 and (sigmas.diff() < 0).all()
    if not falling or sigmas[-1] < 0 or sigmas[0] == math.inf:
        raise ValueError("The sigmas do not fall to the end of a sampling. Connect those of the DDIM Invert that gave "
                         "the features.")


def require_image(image: torch.Tensor) -> torch.Tensor:
    """The colors (B, H, W, 1 or 3) of an IMAGE that may have transparency; ValueError for another shape or none."""
    if image.ndim != 4 or not image.numel() or image.shape[-1] > 4:
        raise ValueError(f"The image has shape {list(image.shape)}, and that of a picture is [batch, height, width, "
                         "3]. Connect the picture that was inverted, or none.")
    return image[..., :3 if image.shape[-1] > 2 else 1].nan_to_num()


def require_file_prefix(prefix: str):
    path = PurePath(prefix)
    if not path.name or path.is_absolute() or ".." in path.parts or not prefix.isprintable():
        raise ValueError(f"filename_prefix {quote(prefix)} is no name of a file below models/styleid_features. Write "
                         "for example style, or starry/night.")


def refuse_fresh_noise(latent: torch.Tensor, content: Features, sigma: float):
    """ValueError for noise that is added to a latent (B, C, H, W) at `sigma`, unless that is the content's own."""
    alike = latent.shape[1:] == content.latent.shape[1:]
    clean = alike and torch.equal(latent.cpu(), content.latent.cpu().expand_as(latent))
    if not clean or sigma >= content.sigmas[-1]:
        raise ValueError("The sampler adds fresh noise, which loses the content that the noise of DDIM Invert stands "
                         "for. Turn it off (add_noise disable, Disable Noise). To vary the picture, give the sampler "
                         "the content's own latent and a denoise below 1.")


def warn_other_weights(name: str):
    """Only a warning."""
    logger.warning("The %s_features were made with other weights than those that sample, and are injected as they are.",
                   name)


def require_common_blocks(content: Features, style: Features, model_blocks: list[Block]) -> list[Block]:
    """Those that both were captured in; ValueError if the model has none of them."""
    common = [block for block in content.blocks if block in style.blocks]
    if not set(common) & set(model_blocks):
        raise ValueError(f"content_features were captured in blocks {listed(content.blocks)}, style_features in "
                         f"{listed(style.blocks)}, and none of them is common to both and this model. Capture both "
                         "with the same blocks, from the model that samples.")
    return common


def require_chosen_blocks(text: str, chosen: list[Block], common: list[Block]) -> list[Block]:
    """`chosen`, which `text` names; ValueError for some that are not among `common`."""
    missing = set(chosen) - set(common)
    if missing:
        raise ValueError(f"blocks {quote(text)}: {listed(missing)} were not captured. Choose from {listed(common)}, or "
                         "capture more.")
    return chosen


def require_sampled_size(size: tuple[int, int], captured: tuple[int, int]):
    """Both (height, width) of a latent."""
    if size != captured:
        raise ValueError("content_features were captured from a latent of {}x{}, and the latent being sampled is {}x{} "
                         "(height x width). Sample the noise that DDIM Invert gave together with "
                         "them.".format(*captured, *size))


def require_sampled_batch(name: str, images: int, batch: int):
    if images not in (1, batch):
        raise ValueError(f"{name}_features hold {images} images and the latent being sampled holds {batch}. "
                         f"Give one {name} for all, or one for each.")


def require_mask_batch(name: str, masks: int, batch: int):
    if masks not in (1, batch):
        raise ValueError(f"The {name} holds {masks} masks and the latent holds {batch} pictures. Give one mask for "
                         "all, or one for each.")


def require_some_sigmas(wanted: list[float], sampled: int, start_percent: float, end_percent: float):
    """ValueError for none of so many `sampled` sigmas that are injected at."""
    if sampled and not wanted:
        raise ValueError("No style would be injected: none of the sigmas that are sampled lies between start_percent "
                         f"{start_percent:g} and end_percent {end_percent:g}. Widen them, or sample this part with the "
                         "model that has no style.")


# Model calls

def require_whole_picture(size: tuple[int, int], captured: tuple[int, int]):
    if size != captured:
        raise ValueError("The model is sampling only a part of the picture (an area, a tile), where StyleID's content "
                         "features do not fit. Use conditioning without an area and a sampler without tiles.")


def require_grid(tokens: int, grid: tuple[int, int]):
    """`grid` (height, width) is that of the model's own tokens for a latent of that size."""
    if tokens != grid[0] * grid[1]:
        raise ValueError(f"The features were captured on {tokens} tokens, and this model has {grid[0]} x {grid[1]} for "
                         "that picture. Capture them with the model that samples, without nodes that shrink the "
                         "picture inside the UNet.")


def require_whole_batch(latents: int, calls: int, each: int):
    if latents != calls * each:
        raise ValueError(f"The model is called with {latents} latents, and {calls} x {each} are sampled: another node "
                         "samples tiles, or a part of the batch, and StyleID cannot tell which. Remove it, or give one "
                         "content and one style.")


def require_some_injected(blocks: set[Block], called_at: int, sigmas: int, inject_into: list[str]):
    """ValueError for a sampling that reached no `blocks`, and called the model at so many of so many sigmas."""
    if blocks:
        return
    if set(inject_into) == {"uncond"} and not called_at:
        raise ValueError("No style was injected: inject_into is uncond, and without cfg the negative prompt is not "
                         "evaluated. Raise cfg above 1, or inject into both.")
    raise ValueError(f"No style was injected: the sampler called the model at {called_at} of {sigmas} sigmas and "
                     "reached none of the captured blocks. Give it two sigmas or more, and remove nodes that replace "
                     "the UNet.")


def refuse_overridden(sigma: float, reached: int, expected: int, above: list[str]):
    raise ValueError(f"At sigma {sigma:.4g} the style was injected into {reached} of {expected} self-attentions, as "
                     f"another node's attention stands in place of the others: {', '.join(above)}. Remove that node "
                     "(such as BlockSparseAttention) from the model that is sampled.")


def require_even_masks(even: bool):
    if not even:
        raise ValueError("Another node masks the attention between parts of the picture, and the style has no such "
                         "parts. Remove it from the model that is sampled.")
