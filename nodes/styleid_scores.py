"""StyleIDScores: the paper's measures of one transfer, beside the picture."""

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..styleid_core.metrics.cfsd import cfsd
from ..styleid_core.metrics.evaluate import check_finite
from ..styleid_core.metrics.histogram import hellinger, rgb_uv_histogram
from ..styleid_core.metrics.networks import MissingError, load_lpips, load_vgg19
from .declared import declared


class StyleIDScores(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDScores",
            display_name="StyleID Scores",
            category="styleid",
            description="Measures a stylized picture as the StyleID paper does: CFSD and LPIPS to the content, "
                        "histogram distance to the style. The first run downloads two networks (820 MB).",
            search_aliases=["styleid", "evaluate style transfer", "lpips", "cfsd", "color histogram distance"],
            inputs=[
                io.Image.Input("content", tooltip="The content picture; cropped and resized to match the stylized one "
                                                  "if sizes differ."),
                io.Image.Input("style", tooltip="The style picture; fitted in the same way."),
                io.Image.Input("stylized", tooltip="The result. A batch gives the mean; each picture is compared with "
                                                   "its own content and style, or with one for all."),
            ],
            outputs=[
                io.Float.Output(display_name="cfsd",
                                tooltip="Structure: 0 keeps the content's, the paper reports 0.228. Lower is closer."),
                io.Float.Output(display_name="lpips",
                                tooltip="Perceptual distance to the content: 0 is equal, the paper reports 0.506."),
                io.Float.Output(display_name="histogram",
                                tooltip="Color distance to the style: 0 is equal, 1 has none in common."),
                io.String.Output(display_name="text", tooltip="All three as text: connect Preview as Text."),
            ],
        )

    @classmethod
    @declared
    def execute(cls, content, style, stylized) -> io.NodeOutput:
        device = comfy.model_management.get_torch_device()
        try:
            vgg19, lpips = load_vgg19(None, device), load_lpips(None, device)
        except MissingError as error:
            raise ValueError(f"StyleID Scores: {error}") from error
        for name, pictures in (("content", content), ("style", style), ("stylized", stylized)):
            if not pictures.numel() or pictures.shape[-1] < 3 or not pictures.isfinite().all():
                raise ValueError(f"The pictures in {name} have NaN, or not the three channels of a color picture, or "
                                 "there are none. Connect others.")
        # A fourth channel is transparency.
        content, style, stylized = (pictures[..., :3] for pictures in (content, style, stylized))
        stylized = stylized.movedim(-1, 1)
        height, width = stylized.shape[-2:]
        smallest = max(vgg19.smallest, lpips.smallest)
        if min(height, width) < smallest:
            raise ValueError(f"The stylized picture has {width} x {height} pixels, and the networks need {smallest} to "
                             "each side. Give a larger one.")
        content, style = fitted(content, stylized, "content"), fitted(style, stylized, "style")
        scores = []
        for triple in zip(content, style, stylized):
            c, s, result = (picture.to(device) for picture in triple)
            scores.append((cfsd(c, result, vgg19.call).mean, lpips.call(c[None], result[None]).item(),
                           hellinger(rgb_uv_histogram(s), rgb_uv_histogram(result))))
        check_finite(torch.tensor(scores), "the stylized picture")
        means = torch.tensor(scores).mean(0).tolist()
        text = "CFSD {:.4f}, LPIPS {:.4f} (to the content), histogram distance {:.4f} (to the style)".format(*means)
        return io.NodeOutput(*means, text)


def fitted(pictures: torch.Tensor, stylized: torch.Tensor, name: str) -> torch.Tensor:
    """IMAGE (B, H, W, 3) as (N, 3, h, w), as `stylized` are; ValueError for batches that cannot be paired."""
    if len(pictures) not in (1, len(stylized)):
        raise ValueError(f"There are {len(stylized)} stylized pictures and {len(pictures)} in {name}. Give one for "
                         "all, or as many.")
    height, width = stylized.shape[-2:]
    scaled = comfy.utils.common_upscale(pictures.movedim(-1, 1), width, height, "lanczos", "center")
    return scaled.expand(len(stylized), -1, -1, -1)

