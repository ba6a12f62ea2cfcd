"""FireFlowSampler: what samples along the path of the inversion fireflow."""

from comfy.samplers import KSAMPLER
from comfy_api.latest import io

from ..styleid_core.ddim import sample_fireflow
from .declared import declared


class FireFlowSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FireFlowSampler",
            display_name="FireFlow Sampler",
            category="styleid",
            description="The sampler that belongs to the inversion fireflow of DDIM Invert: for flow models, nearly as "
                        "true as two model calls a step, in one.",
            search_aliases=["styleid", "fireflow", "rectified flow", "inversion", "unsampler"],
            inputs=[],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom, with the sigmas of DDIM Invert and without added "
                                               "noise.")],
        )

    @classmethod
    @declared
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(KSAMPLER(sample_fireflow))
