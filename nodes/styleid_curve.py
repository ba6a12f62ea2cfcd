"""StyleIDCurve: a published shape for a setting that changes over the sampling."""

from comfy_api.latest import io

from ..styleid_core.curves import SHAPES
from . import inputs
from .declared import declared
from .engine.curves import ShapedCurve


class StyleIDCurve(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDCurve",
            display_name="StyleID Curve",
            category="styleid",
            description="A curve over the sampling for Inject Style K/V, which multiplies gamma, temperature or weight "
                        "by it. Published for gamma: cosine from 1 to 0.5.",
            search_aliases=["styleid", "schedule", "scheduled gamma", "ease"],
            inputs=[
                io.Float.Input("start", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="The factor at pure noise."),
                io.Float.Input("end", default=0.5, min=0.0, max=10.0, step=0.01,
                               tooltip="The factor at the finished picture."),
                io.Combo.Input("shape", options=list(SHAPES), default="cosine",
                               tooltip="How it gets there: linear evenly, quadratic and exponential late, sqrt early, "
                                       "cosine in the middle."),
            ],
            outputs=[inputs.CurveType.Output(display_name="curve",
                                             tooltip="For gamma_curve, temperature_curve or weight_curve.")],
        )

    @classmethod
    @declared
    def execute(cls, start=1.0, end=0.5, shape="cosine") -> io.NodeOutput:
        return io.NodeOutput(ShapedCurve(shape, start, end))
