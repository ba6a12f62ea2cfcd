"""DDIMInvert: from a picture to noise, and what the model saw on the way."""

from comfy_api.latest import io

from ..styleid_core.settings import InversionSettings
from . import inputs
from .declared import declared
from .engine.inversion import invert_latent


class DDIMInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DDIMInvert",
            display_name="DDIM Invert",
            category="styleid",
            description="Runs the deterministic DDIM sampler backwards, from a picture to the noise the model would "
                        "draw it from. Also records the self-attention when the model comes from Capture "
                        "Self-Attention.",
            search_aliases=["styleid", "inversion", "unsampler", "invert", "reverse ddim"],
            inputs=[
                io.Model.Input("model", tooltip="From Capture Self-Attention to get features, or any model to get only "
                                                "the noise."),
                io.Latent.Input("latent", tooltip="The encoded picture, or a batch; its mask, if it has one, limits "
                                                  "what is stylized."),
                inputs.positive(),
                inputs.steps("Model calls of the inversion: the paper uses 50. Use the same number for content and "
                             "style."),
                inputs.schedule(),
                inputs.denoise(advanced=True),
                inputs.refine(advanced=True),
                inputs.inversion(advanced=True),
                io.Boolean.Input("round_trip", default=False, optional=True, advanced=True,
                                 tooltip="Also sample the noise again and log how far that ends from the picture, in "
                                         "as many steps."),
            ],
            outputs=[
                io.Latent.Output(display_name="noise",
                                 tooltip="Sample from it with the sigmas and without added noise."),
                inputs.FeaturesType.Output(display_name="features",
                                           tooltip="Self-attention inputs of every step, for Inject Style K/V."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The sigmas to sample the noise with."),
            ],
        )

    @classmethod
    @declared
    def execute(cls, model, latent, positive, steps=50, schedule="official", denoise=1.0, refine=0, inversion="ddim",
                round_trip=False) -> io.NodeOutput:
        settings = InversionSettings(steps, schedule, denoise, refine, inversion)
        return io.NodeOutput(*invert_latent(model, latent, positive, settings, round_trip))
