"""ComfyUI-StyleID: training-free style transfer (StyleID, CVPR 2024) as ComfyUI nodes."""

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .nodes import adain, injection, inversion, scores, styleid_sampler

WEB_DIRECTORY = "web"  # the help panel's pages


class StyleIDExtension(ComfyExtension):
    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*inversion.NODES, *adain.NODES, *injection.NODES, *styleid_sampler.NODES, *scores.NODES]


async def comfy_entrypoint() -> StyleIDExtension:
    return StyleIDExtension()
