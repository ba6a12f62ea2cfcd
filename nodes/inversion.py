"""CaptureSelfAttention and DDIMInvert: from a picture to noise, and what the model saw on the way."""

from comfy_api.latest import io

from ..styleid_core.storage import STORAGES
from .conditioning import check_inverted, entries_of
from .recording import PLACES, request_capture
from .sampling import SCHEDULES, check_channels, check_numbers, image_latent, invert, make_schedule, progress, warn_of_mask

# Wire type of styleid_core.features.Features, which tells its shapes
FeaturesType = io.Custom("STYLEID_FEATURES")

LAYERS_TOOLTIP = ("Decoder (output) blocks, as numbers and ranges: 6-11 (the paper's choice for SD 1.x), or 6,7,9-11. auto picks the "
                  "equivalent for any UNet (0-5 in SDXL), and 0-2 @ 6-9 some transformers of a block. Fewer and later blocks carry "
                  "finer texture and less of the style, earlier ones begin to change the shapes.")
STORAGE_TOOLTIP = ("How features are kept. auto: in the model's precision. fp16 and bf16 halve those of a model in fp32. int8, with a "
                   "scale for each token, halves them again; the result differs by less than 1 %.")
PLACE_TOOLTIP = ("Where features are kept. auto: on the GPU if they fit beside the model, else in RAM, from where those of the next step "
                 "are copied while the GPU computes. gpu, cpu: always there. recompute: nowhere; every sampling step runs content and "
                 "style through the model that samples once more (take the same LoRAs), in next to no memory and 1.7 times the time.")
POSITIVE_TOOLTIP = "Conditioning of every model call. The paper uses an empty prompt, without classifier-free guidance."
SCHEDULE_TOOLTIP = ("official: the timesteps of the authors' code, for their results. ddim: invert along exactly the sigmas that are "
                    "sampled, down to 0, for the closest reconstruction. Others do the same along that scheduler of ComfyUI.")
DENOISE_TOOLTIP = ("1 (the paper) inverts to pure noise. Lower stops on the way, as denoise of KSampler does: steps are then the last of "
                   "steps / denoise, and the result stays closer to the content, with less of the style's colours.")


class CaptureSelfAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="CaptureSelfAttention",
            display_name="Capture Self-Attention",
            category="styleid",
            description="Marks the decoder blocks whose self-attention DDIM Invert records. Sampling with the model is not changed.",
            search_aliases=["styleid", "style transfer", "attention features", "record attention"],
            inputs=[
                io.Model.Input("model", tooltip="A UNet with self-attention: SD 1.x, SD 2.x, SDXL. LoRAs applied before are seen."),
                io.String.Input("layers", default="6-11", tooltip=LAYERS_TOOLTIP),
                io.Combo.Input("storage", options=list(STORAGES), default="auto", optional=True, advanced=True, tooltip=STORAGE_TOOLTIP),
                io.Combo.Input("place", options=PLACES, default="auto", optional=True, advanced=True, tooltip=PLACE_TOOLTIP),
            ],
            outputs=[io.Model.Output(tooltip="For DDIM Invert: records the chosen blocks while it is inverted.")],
        )

    @classmethod
    def execute(cls, model, layers="6-11", storage="auto", place="auto") -> io.NodeOutput:
        return io.NodeOutput(request_capture(model, layers, storage, place))


class DDIMInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DDIMInvert",
            display_name="DDIM Invert",
            category="styleid",
            description="Runs the deterministic DDIM sampler backwards: the noise from which the model would draw this picture, "
                        "with the self-attention it saw on the way when the model comes from Capture Self-Attention.",
            search_aliases=["styleid", "inversion", "unsampler", "invert", "reverse ddim"],
            inputs=[
                io.Model.Input("model", tooltip="From Capture Self-Attention to get features, or any model to get only the noise."),
                io.Latent.Input("latent", tooltip="The encoded picture, of any size that the VAE takes; a batch is inverted together. "
                                                 "Its mask, if it has one, limits what is stylised."),
                io.Conditioning.Input("positive", tooltip=POSITIVE_TOOLTIP),
                io.Int.Input("steps", default=50, min=1, max=1000,
                             tooltip="Model calls of the inversion. The paper uses 50. Use the same number for content and style."),
                io.Combo.Input("schedule", options=SCHEDULES, default="official", tooltip=SCHEDULE_TOOLTIP),
                io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01, optional=True, advanced=True, tooltip=DENOISE_TOOLTIP),
            ],
            outputs=[
                io.Latent.Output(display_name="noise", tooltip="Sample from it with the sigmas and without added noise."),
                FeaturesType.Output(display_name="features", tooltip="Self-attention inputs of every step, for Inject Style K/V."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The sigmas to sample the noise with."),
            ],
        )

    @classmethod
    def execute(cls, model, latent, positive, steps=50, schedule="official", denoise=1.0) -> io.NodeOutput:
        check_numbers(denoise=denoise)
        samples = image_latent(latent, "input")
        check_channels(model, samples, "input")
        plan = make_schedule(model, schedule, steps, denoise)
        check_inverted(model, "positive", entries_of(positive), plan.evaluated.tolist())
        [callback] = progress(model, len(plan.evaluated))
        noise, features = invert(model, positive, samples, plan, callback)
        output = latent | {"samples": noise}
        if "noise_mask" in latent and not features.blocks:
            # Only Inject Style K/V knows what is to be seen outside the mask; a bare sampler would show this noise there.
            warn_of_mask(latent, "input")
            del output["noise_mask"]
        return io.NodeOutput(output, features, plan.sampling)


NODES = [CaptureSelfAttention, DDIMInvert]
