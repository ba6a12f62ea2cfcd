"""CaptureSelfAttention: which self-attention an inversion records."""

from comfy_api.latest import io

from . import inputs
from .declared import declared
from .engine.capture import request_capture


class CaptureSelfAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="CaptureSelfAttention",
            display_name="Capture Self-Attention",
            category="styleid",
            description="Marks the blocks whose self-attention DDIM Invert records. Sampling with the model is not "
                        "changed.",
            search_aliases=["styleid", "style transfer", "attention features", "record attention"],
            inputs=[
                io.Model.Input("model", tooltip="A UNet (SD 1.x, SD 2.x, SDXL) or a transformer (Flux, Chroma, "
                                                "Qwen-Image, Z-Image, SD 3.5, Krea 2, and others). LoRAs applied "
                                                "before this node are included."),
                inputs.blocks(),
                inputs.feature_dtype(advanced=True),
                inputs.feature_device(advanced=True),
            ],
            outputs=[io.Model.Output(tooltip="For DDIM Invert, which records the chosen blocks.")],
        )

    @classmethod
    @declared
    def execute(cls, model, blocks="auto", feature_dtype="auto", feature_device="auto") -> io.NodeOutput:
        return io.NodeOutput(request_capture(model, blocks, feature_dtype, feature_device))
