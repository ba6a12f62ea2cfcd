"""LoadStyleIDFeatures: an inverted picture from a file."""

from comfy_api.latest import io, ui

from ..styleid_core.style_file import stamp_of
from . import inputs
from .engine.files import load_features, not_there, saved_files, saved_path


class LoadStyleIDFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoadStyleIDFeatures",
            display_name="Load StyleID Features",
            category="styleid",
            description="Reads what Save StyleID Features has written, in place of a DDIM Invert. The features stay in "
                        "the file and are read step by step, so that they take no memory.",
            search_aliases=["styleid", "load style", "load inversion", "import features"],
            inputs=[
                io.Combo.Input("file", options=saved_files(),
                               tooltip="A file in models/styleid_features; press R to read the list again."),
            ],
            outputs=[
                io.Latent.Output(display_name="noise",
                                 tooltip="As DDIM Invert gives it: for Latent AdaIN, or to sample from."),
                inputs.FeaturesType.Output(display_name="features",
                                           tooltip="As DDIM Invert gives them, for Inject Style K/V."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The sigmas to sample the noise with."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file) -> bool | str:
        return saved_path(file) is not None or not_there(file)

    @classmethod
    def fingerprint_inputs(cls, file):
        return stamp_of(str(saved_path(file)))

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        noise, features, sigmas, noise_mask, picture = load_features(file)
        latent = {"samples": noise} if noise_mask is None else {"samples": noise, "noise_mask": noise_mask}
        shown = None if picture is None else ui.PreviewImage(picture[None] / 255, cls=cls)
        return io.NodeOutput(latent, features, sigmas, ui=shown)
