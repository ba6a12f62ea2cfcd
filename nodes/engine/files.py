"""Features in files: where they lie, and how they are written and read."""

import os
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch

from ...styleid_core.features import Features, Kept
from ...styleid_core.style_file import SUFFIX, InFile, Inverted, load, save
from . import checks, logger

FOLDER = "styleid_features"  # among ComfyUI's folders of models
unless_cancelled = comfy.model_management.throw_exception_if_processing_interrupted
PICTURE = 256  # longer side of the small copy

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def saved_files() -> list[str]:
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIX)]


def saved_path(name: str) -> Path | None:
    path = folder_paths.get_full_path(FOLDER, name)
    return Path(path) if path and name.endswith(SUFFIX) else None


def not_there(name: str) -> str:
    return f"There is no {name} in models/styleid_features. Press R to read the list again, or save features first."


def save_features(noise: dict, features: Features, sigmas: torch.Tensor, prefix: str,
                  image: torch.Tensor | None) -> str:
    """Write a new file beside those of the same prefix; its name. ValueError for what cannot be written."""
    samples = checks.require_picture(noise, "noise")
    checks.require_savable(samples, features, isinstance(features.source, (Kept, InFile)))
    checks.require_falling_sigmas(sigmas)
    checks.require_file_prefix(prefix)
    shown = None if image is None else small(checks.require_image(image))
    root = folder_paths.get_folder_paths(FOLDER)[0]
    try:
        folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root)
        name = f"{stem}_{counter:05}_{SUFFIX}"
        Path(folder).mkdir(parents=True, exist_ok=True)
        save(Inverted(samples, features, sigmas, noise.get("noise_mask"), shown), Path(folder, name), unless_cancelled)
    except OSError as error:
        raise ValueError(f"The features could not be saved in {FOLDER}: {error.strerror or error}") from error
    logger.info("Saved features of %d steps as %s.", len(features.sigmas), name)
    return str(Path(subfolder, name))


def small(image: torch.Tensor) -> torch.Tensor:
    """(h, w, 3) uint8 of the first picture of an IMAGE (B, H, W, 1 or 3), its longer side PICTURE."""
    picture = image[:1].expand(-1, -1, -1, 3).movedim(-1, 1)
    scale = min(1.0, PICTURE / max(picture.shape[-2:]))
    height, width = (max(1, round(side * scale)) for side in picture.shape[-2:])
    small = comfy.utils.common_upscale(picture, width, height, "area", "disabled")[0].movedim(0, -1)
    return (small.clamp(0, 1) * 255).round().byte()


def load_features(name: str) -> Inverted:
    path = saved_path(name)
    if path is None:
        raise ValueError(not_there(name))
    inverted = load(path, unless_cancelled)
    origin = inverted.features.origin
    logger.info("Read %s: %s.", name, inverted.features if origin is None else origin.settings)
    return inverted
