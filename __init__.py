"""ComfyUI-StyleID: training-free style transfer (StyleID, CVPR 2024) as ComfyUI nodes."""

import importlib
import logging

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .nodes.capture_self_attention import CaptureSelfAttention
from .nodes.ddim_invert import DDIMInvert
from .nodes.fireflow_sampler import FireFlowSampler
from .nodes.inject_style_kv import InjectStyleKV
from .nodes.latent_adain import LatentAdaIN
from .nodes.load_styleid_features import LoadStyleIDFeatures
from .nodes.save_styleid_features import SaveStyleIDFeatures
from .nodes.styleid_curve import StyleIDCurve
from .nodes.styleid_options import StyleIDOptions
from .nodes.styleid_positions import StyleIDPositions
from .nodes.styleid_sampler import StyleIDSampler
from .nodes.styleid_start_frequencies import StyleIDStartFrequencies
from .nodes.styleid_strength import StyleIDStrength
from .nodes.styleid_sweep import StyleIDSweep

WEB_DIRECTORY = "web"  # the help panel's pages, and what the page does when a preset is chosen


def scores() -> list[type[io.ComfyNode]]:
    """StyleID Scores, unless torchvision cannot be loaded (RuntimeError: it belongs to another torch)."""
    try:
        return [importlib.import_module(".nodes.styleid_scores", __name__).StyleIDScores]
    except (ImportError, OSError, RuntimeError) as error:
        logging.getLogger("styleid").warning("The node StyleID Scores is not there: %s", error)
        return []


class StyleIDExtension(ComfyExtension):
    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StyleIDSampler, StyleIDOptions, CaptureSelfAttention, DDIMInvert, LatentAdaIN, InjectStyleKV,
                StyleIDStrength, StyleIDCurve, StyleIDSweep, StyleIDStartFrequencies, StyleIDPositions,
                FireFlowSampler, SaveStyleIDFeatures, LoadStyleIDFeatures, *scores()]


async def comfy_entrypoint() -> StyleIDExtension:
    return StyleIDExtension()
