"""StyleIDSampler: the whole of StyleID in one node."""

from comfy.samplers import KSAMPLER
from comfy_api.latest import io

from ..styleid_core.adain import adain as latent_adain
from ..styleid_core.ddim import sample_ddim, vp_scale
from ..styleid_core.storage import STORAGES
from .conditioning import check_inverted, check_sampled, entries_of
from .injection import END_TOOLTIP, GAMMA_TOOLTIP, INJECT_INTO_TOOLTIP, START_TOOLTIP, TEMPERATURE_TOOLTIP
from .inversion import DENOISE_TOOLTIP, LAYERS_TOOLTIP, PLACE_TOOLTIP, POSITIVE_TOOLTIP, SCHEDULE_TOOLTIP, STORAGE_TOOLTIP
from .patcher import INJECT_INTO, Settings, check_settings, inject_style, injected_sigmas, keep_outside
from .recording import PLACES, request_capture
from .sampling import (
    GUIDED_BELOW,
    SCHEDULES,
    check_channels,
    check_numbers,
    image_latents,
    in_batches,
    invert_both,
    make_schedule,
    progress,
    rescale,
    run_sampler,
    warn_of_mask,
)


class StyleIDSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDSampler",
            display_name="StyleID Sampler",
            category="styleid",
            description="Draws the content picture in the style of another, without training: inverts both, re-colours the content's "
                        "noise and samples it with the style's self-attention (StyleID, CVPR 2024).",
            search_aliases=["styleid", "style transfer", "style injection", "artistic style", "neural style"],
            inputs=[
                io.Model.Input("model", tooltip="A UNet with self-attention: SD 1.x, SD 2.x, SDXL."),
                io.Latent.Input("content",
                                tooltip="The encoded picture, or a batch of them, whose shapes are kept. "
                                        "Its mask, if it has one, limits what is stylised."),
                io.Latent.Input("style", tooltip="The encoded picture whose style is taken, of any size; one for all, or one for each."),
                io.Conditioning.Input("positive", tooltip=POSITIVE_TOOLTIP),
                io.Int.Input("steps", default=50, min=1, max=1000,
                             tooltip="Steps of each inversion and of the sampling, so three times as many model calls. The paper uses 50."),
                io.Float.Input("gamma", default=0.75, min=0.0, max=1.0, step=0.01, tooltip=GAMMA_TOOLTIP),
                io.Float.Input("temperature", default=1.5, min=0.0, max=10.0, step=0.05, tooltip=TEMPERATURE_TOOLTIP),
                io.Float.Input("adain", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Initial latent AdaIN: 0 keeps the content's colours, 1 (the paper) takes all of the style's."),
                io.String.Input("layers", default="6-11", tooltip=LAYERS_TOOLTIP + " Empty: nothing is injected, only the colours change."),
                io.Combo.Input("schedule", options=SCHEDULES, default="official", tooltip=SCHEDULE_TOOLTIP, advanced=True),
                io.Conditioning.Input("negative", optional=True, tooltip="What the result should not show; works with cfg above 1."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, optional=True, advanced=True,
                               tooltip="Classifier-free guidance of the sampling. 1 (the paper) is off and twice as fast; higher follows "
                                       "the prompt in positive more. Both inversions run without it, and so does the sampling above sigma "
                                       "5.42, where it would burn the colours."),
                io.Conditioning.Input("inversion_positive", optional=True,
                                      tooltip="Conditioning of both inversions, instead of positive. With a prompt in positive, "
                                              "connect an empty one here."),
                io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01, optional=True, advanced=True, tooltip=DENOISE_TOOLTIP),
                io.Combo.Input("inject_into", options=list(INJECT_INTO), default="both", optional=True, advanced=True,
                               tooltip=INJECT_INTO_TOOLTIP),
                io.Combo.Input("storage", options=list(STORAGES), default="auto", optional=True, advanced=True, tooltip=STORAGE_TOOLTIP),
                io.Combo.Input("place", options=PLACES, default="auto", optional=True, advanced=True, tooltip=PLACE_TOOLTIP),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True,
                               tooltip=START_TOOLTIP),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip=END_TOOLTIP),
            ],
            outputs=[io.Latent.Output(tooltip="The stylised picture, for VAE Decode.")],
        )

    @classmethod
    def execute(cls, model, content, style, positive, steps=50, gamma=0.75, temperature=1.5, adain=1.0, layers="6-11",
                schedule="official", negative=None, cfg=1.0, inversion_positive=None, denoise=1.0,
                inject_into="both", storage="auto", place="auto", start_percent=0.0, end_percent=1.0) -> io.NodeOutput:
        check_numbers(adain=adain, cfg=cfg, denoise=denoise)
        z_content, z_style = image_latents(content, style)
        for name, samples in (("content", z_content), ("style", z_style)):
            check_channels(model, samples, name)
        warn_of_mask(style, "style")
        if cfg != 1 and negative is None:
            raise ValueError(f"cfg {cfg:g} compares with a negative prompt, and none is connected. Connect negative, or set cfg to 1.")

        if inject_into == "uncond" and cfg == 1:
            raise ValueError("The setting inject_into is uncond, and at cfg 1 the negative prompt is not evaluated, so nothing "
                             "would be injected. Raise cfg above 1, or inject into both.")

        settings = check_settings(Settings(gamma, temperature, inject_into, start_percent, end_percent))
        injected = bool(layers.strip())
        recording = request_capture(model, layers, storage, place) if injected else model
        plan = make_schedule(model, schedule, steps, denoise)
        sampled = plan.sampling[:-1].tolist()
        name, inverted_with = ("positive", positive) if inversion_positive is None else ("inversion_positive", inversion_positive)
        check_inverted(model, name, entries_of(inverted_with), plan.evaluated.tolist())
        check_sampled(model, "positive", entries_of(positive), sampled)
        if cfg != 1:
            check_sampled(model, "negative", entries_of(negative), [sigma for sigma in sampled if sigma <= GUIDED_BELOW * plan.sigma_data])
        if injected:
            injected_sigmas(model, settings, plan.sampling)  # or two inversions would run before an error
        batches = in_batches(model, z_content, z_style)
        *on_inversion, on_sampling = progress(model, *[len(plan.evaluated)] * len(batches), len(plan.sampling) - 1)

        (noise, content_features), (style_noise, style_features) = invert_both(
            recording, inverted_with, batches, len(z_content), plan, on_inversion)
        start = latent_adain(noise, style_noise, adain)
        m = inject_style(model, content_features, style_features, settings) if injected else model
        x = run_sampler(m, positive, start, KSAMPLER(sample_ddim), plan.sampling, on_sampling, negative, cfg)
        result = rescale(model, x, 1 / vp_scale(plan.sampling[-1], plan.sigma_data))
        if "noise_mask" in content:
            result = keep_outside(content["noise_mask"], result, z_content)
        return io.NodeOutput(content | {"samples": result})


NODES = [StyleIDSampler]
