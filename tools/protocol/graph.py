"""StyleID node by node as a prompt for ComfyUI's API."""

from ..workflow import saving
from .method import Method, Setting

SAVE = "save"
POSITIONS = {"place": "diagonal", "high_frequencies": 0.5, "low_frequencies": 1.5}  # the node's defaults


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def model_nodes(method: Method) -> tuple[dict, dict[str, list]]:
    """(nodes, where MODEL, CONDITIONING of an empty prompt and VAE come out)."""
    if method.checkpoint is not None:
        nodes = {"model": node("CheckpointLoaderSimple", ckpt_name=method.checkpoint),
                 "prompt": node("CLIPTextEncode", clip=["model", 1], text="")}
        return nodes, {"model": ["model", 0], "positive": ["prompt", 0], "vae": ["model", 2]}
    source = {"model": ["model", 0], "positive": ["model", 1], "vae": ["model", 2]}
    if method.built_in == "unet":
        return {"model": node("StyleIDDemoModel")}, source
    nodes = {"model": node("StyleIDDemoTransformer"),
                 "positions": node("StyleIDPositions", model=["model", 0], **POSITIONS)}
    return nodes, source | {"model": ["positions", 0]}


def inversion_nodes(name: str, picture: str, method: Method, positive: list, vae: list) -> dict:
    """Load, cut to a square and invert one picture; the node `name` has noise, features and sigmas."""
    return {
        f"{name}_file": node("LoadImage", image=picture),
        f"{name}_square": node("ImageScale", image=[f"{name}_file", 0], upscale_method="lanczos", width=method.side,
                               height=method.side, crop="center"),
        f"{name}_latent": node("VAEEncode", pixels=[f"{name}_square", 0], vae=vae),
        name: node("DDIMInvert", model=["capture", 0], latent=[f"{name}_latent", 0], positive=positive,
                   steps=method.steps, schedule=method.schedule, refine=method.refine),
    }


class Inversions:
    """Of one side of the pairs, in files of one server: a picture is inverted there once."""

    def __init__(self, side: str):
        self.side, self.files = side, {}  # by the picture, as LoadImage names it

    def put_into(self, prompt: dict) -> dict:
        """The same prompt with its picture's inversion from a file, or into one."""
        file = self.files.get(self.picture(prompt))
        if file is not None:
            return prompt | {self.side: node("LoadStyleIDFeatures", file=file)}
        return prompt | {SAVE: saving(self.side, "evaluate")}

    def learn(self, prompt: dict, outputs: dict):
        """From what a run of that prompt gave."""
        if SAVE in outputs:
            [self.files[self.picture(prompt)]] = outputs[SAVE]["text"]

    def picture(self, prompt: dict) -> str:
        return prompt[f"{self.side}_file"]["inputs"]["image"]


def make_prompt(method: Method, content: str, style: str, setting: Setting) -> dict:
    """API prompt for one picture, of `content` and `style` as LoadImage names them.

    Only the nodes from "inject" on depend on the setting: ComfyUI keeps the inversions from one prompt to the next.
    """
    nodes, source = model_nodes(method)
    positive, vae = source["positive"], source["vae"]
    curve = {}
    if method.gamma_curve is not None:
        nodes["curve"] = node("StyleIDCurve", **dict(zip(("shape", "start", "end"), method.gamma_curve)))
        curve["gamma_curve"] = ["curve", 0]
    return nodes | {
        "capture": node("CaptureSelfAttention", model=source["model"], blocks=method.blocks),
        **inversion_nodes("content", content, method, positive, vae),
        **inversion_nodes("style", style, method, positive, vae),
        "start": node("LatentAdaIN", content=["content", 0], style=["style", 0], color_strength=method.color_strength),
        "inject": node("InjectStyleKV", model=source["model"], content_features=["content", 1],
                       style_features=["style", 1], gamma=setting.gamma, temperature=setting.temperature, **curve),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sample": node("SamplerCustom", model=["inject", 0], add_noise=False, noise_seed=0, cfg=1.0, positive=positive,
                       negative=positive, sampler=["euler", 0], sigmas=["content", 2], latent_image=["start", 0]),
        "decode": node("VAEDecode", samples=["sample", 0], vae=vae),
        "result": node("PreviewImage", images=["decode", 0]),
    }
