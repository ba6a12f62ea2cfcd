"""The demo's models as ComfyUI nodes. A development aid: they are linked into private servers and never shipped to
users.
"""

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .autoencoder import load_autoencoder
from .flow import load_trained_flow
from .seeded import DEMO_SDXL, load_controlnet, load_sdxl, sdxl_conditioning
from .transformers import SMALL, load_transformer, prompt
from .unet import PROMPTS, TRAINED_UNET, conditioning, load_trained_unet

TRAINED = "trained"


class StyleIDDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDDemoModel",
            display_name="StyleID Demo Model",
            category="styleid/demo",
            description="A miniature Stable Diffusion in the layout of SD 1.x, trained on a thousand pictures.",
            inputs=[io.Combo.Input("prompt", options=list(PROMPTS), default=PROMPTS[0], optional=True,
                                   tooltip="What the conditioning asks for; the model knows these kinds of picture.")],
            outputs=[io.Model.Output(), io.Conditioning.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, prompt=PROMPTS[0]) -> io.NodeOutput:
        return io.NodeOutput(load_trained_unet(), conditioning(prompt), load_autoencoder())


class StyleIDDemoSDXL(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDDemoSDXL",
            display_name="StyleID Demo SDXL",
            category="styleid/demo",
            description="A small model in the layout of SDXL with seeded weights, not trained: it shows that a graph "
                        "runs.",
            inputs=[],
            outputs=[io.Model.Output(), io.Conditioning.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_sdxl(), sdxl_conditioning(), load_autoencoder())


class StyleIDDemoTransformer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDDemoTransformer",
            display_name="StyleID Demo Transformer",
            category="styleid/demo",
            description="A small transformer: a trained one in the layout of Lumina 2 and Z-Image, or one with seeded "
                        "weights in the layout of another family, which shows that a graph runs.",
            inputs=[io.Combo.Input("family", options=[TRAINED, *SMALL], default=TRAINED, optional=True,
                                   tooltip="Which of them.")],
            outputs=[io.Model.Output(), io.Conditioning.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, family=TRAINED) -> io.NodeOutput:
        trained = family == TRAINED
        model = load_trained_flow() if trained else load_transformer(family)
        positive = conditioning() if trained else prompt(family)
        return io.NodeOutput(model, positive, load_autoencoder())


class StyleIDDemoControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDDemoControlNet",
            display_name="StyleID Demo ControlNet",
            category="styleid/demo",
            description="A small ControlNet for the demo model with seeded weights, not trained: it shows that a graph "
                        "runs.",
            inputs=[io.Boolean.Input("xl", default=False, tooltip="For the demo model in the layout of SDXL.")],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, xl=False) -> io.NodeOutput:
        return io.NodeOutput(load_controlnet(DEMO_SDXL if xl else TRAINED_UNET))


class DemoExtension(ComfyExtension):
    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StyleIDDemoModel, StyleIDDemoSDXL, StyleIDDemoTransformer, StyleIDDemoControlNet]


async def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
