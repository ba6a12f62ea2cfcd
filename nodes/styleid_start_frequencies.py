"""StyleIDStartFrequencies: other noise in some frequencies of the latent that a sampling starts from."""

from comfy_api.latest import io

from .declared import declared
from .engine.latents import start_frequencies


class StyleIDStartFrequencies(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDStartFrequencies",
            display_name="StyleID Start Frequencies",
            category="styleid",
            description="Damps a band of frequencies in the content's noise and refills it with new noise, so that the "
                        "sampling may redraw what lies in it. Part of StyleSSP, for models that ControlNets hold to "
                        "the content.",
            search_aliases=["styleid", "stylessp", "frequency", "start noise"],
            inputs=[
                io.Latent.Input("noise", tooltip="From DDIM Invert of the content."),
                io.Float.Input("inner", default=0.3, min=0.0, max=10.0, step=0.01,
                               tooltip="Where the band begins, as a part of the highest frequency."),
                io.Float.Input("outer", default=0.9, min=0.0, max=10.0, step=0.01,
                               tooltip="Where the band ends; 0 in either makes it everything."),
                io.Float.Input("keep", default=0.7, min=0.0, max=1.0, step=0.01,
                               tooltip="The strength that the band keeps: 1 changes nothing, lower brings more of the "
                                       "new noise."),
                io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff, control_after_generate=True,
                             tooltip="Of the new noise."),
            ],
            outputs=[io.Latent.Output(display_name="noise", tooltip="For Latent AdaIN, or to sample from.")],
        )

    @classmethod
    @declared
    def execute(cls, noise, inner=0.3, outer=0.9, keep=0.7, seed=0) -> io.NodeOutput:
        return io.NodeOutput(start_frequencies(noise, inner, outer, keep, seed))
