"""ComfyUI-StyleID: training-free style transfer (StyleID, CVPR 2024) as ComfyUI nodes."""

import importlib
import logging

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .nodes import adain, injection, inversion, styleid_sampler

WEB_DIRECTORY = "web"  # the help panel's pages


def scores() -> list[type[io.ComfyNode]]:
    """StyleID Scores, unless torchvision cannot be loaded (RuntimeError: it belongs to another torch): the others do without."""
    try:
        return importlib.import_module(".nodes.scores", __name__).NODES
    except (ImportError, OSError, RuntimeError) as error:
        logging.getLogger("styleid").warning("The node StyleID Scores is not there: %s", error)
        return []


class StyleIDExtension(ComfyExtension):
    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*inversion.NODES, *adain.NODES, *injection.NODES, *styleid_sampler.NODES, *scores()]


async def comfy_entrypoint() -> StyleIDExtension:
    return StyleIDExtension()
