"""SaveStyleIDFeatures: an inverted picture into a file."""

from comfy_api.latest import io, ui

from . import inputs
from .declared import declared
from .engine.files import save_features


class SaveStyleIDFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SaveStyleIDFeatures",
            display_name="Save StyleID Features",
            category="styleid",
            description="Saves what DDIM Invert gives, so that a style or a content is inverted once and never again: "
                        "0.6 GB in fp16 and 0.3 GB in int8, at 512 x 512 in 50 steps.",
            search_aliases=["styleid", "save style", "save inversion", "export features"],
            inputs=[
                io.Latent.Input("noise", tooltip="From DDIM Invert."),
                inputs.FeaturesType.Input("features", tooltip="From the same DDIM Invert."),
                io.Sigmas.Input("sigmas", tooltip="From the same DDIM Invert."),
                io.String.Input("filename_prefix", default="style",
                                tooltip="Name of the file in models/styleid_features, which gets a number; folders as "
                                        "in starry/night work too."),
                io.Image.Input("image", optional=True,
                               tooltip="The picture that was inverted: Load StyleID Features shows a small copy."),
            ],
            is_output_node=True,
        )

    @classmethod
    @declared
    def execute(cls, noise, features, sigmas, filename_prefix="style", image=None) -> io.NodeOutput:
        return io.NodeOutput(ui=ui.PreviewText(save_features(noise, features, sigmas, filename_prefix, image)))
