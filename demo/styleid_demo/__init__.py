"""The demo's model as a ComfyUI node. A development aid: it is linked into private servers and never shipped to users."""

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .autoencoder import load_autoencoder
from .unet import empty_conditioning, load_unet


class StyleIDDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDDemoModel",
            display_name="StyleID Demo Model",
            category="styleid/demo",
            description="A small model in the shape of SD 1.x, with seeded weights and not trained: it shows that the graph runs.",
            inputs=[],
            outputs=[io.Model.Output(), io.Conditioning.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_unet(output_gain=0.03), empty_conditioning(), load_autoencoder())


class DemoExtension(ComfyExtension):
    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StyleIDDemoModel]


async def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
