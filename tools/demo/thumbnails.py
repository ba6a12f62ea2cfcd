"""Draw the thumbnails of all example graphs, or of some, in a Chromium: python -m tools.demo.thumbnails [NAME ...]

Each shows what the built-in model makes of it.
The seeded SDXL draws nothing to be shown, and a LoRA or ControlNet for the built-in model does not exist: those run at
strength 0.
"""

import asyncio
import base64
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from safetensors.torch import save_file

from ..browser import change_settings, chromium, open_page
from ..client import object_info, run_prompt, saved_files
from ..host import ROOT, running_host, say
from ..server import Server, serve
from ..workflow import find, load_prompt, use_demo_model, use_pictures
from .draw_style import STYLES
from .draw_style import draw as draw_style

EXAMPLES = ROOT / "example_workflows"
MEGAPIXELS = 0.1
PICTURES = ("content.jpg", "style.jpg")
SECOND_STYLE = "embers"
CONTENTS = "styleid_contents"  # a folder of several
WIDTH = 1280
STRENGTHS = {"LoraLoaderModelOnly": "strength_model", "ControlNetApplyAdvanced": "strength"}
MARGINS = dict(left=80, top=90, right=20, bottom=120)  # where the page has its own buttons
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False, "Comfy.Minimap.Visible": False}
OPEN = """async ([workflow, results, margins]) => {
    await app.loadGraphData(workflow);
    const save = app.graph.nodes.find(node => node.type === "SaveImage");
    const images = results.map(source => Object.assign(new Image(), {src: source}));
    for (const image of images) await image.decode();
    if (images.length) save.imgs = images;
    const boxes = [...app.graph.groups, ...app.graph.nodes].map(each => each.boundingRect ?? each._bounding);
    const left = Math.min(...boxes.map(b => b[0])) - 20, top = Math.min(...boxes.map(b => b[1])) - 20;
    const right = Math.max(...boxes.map(b => b[0] + b[2])) + 20, bottom = Math.max(...boxes.map(b => b[1] + b[3])) + 20;
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [margins.left - left, margins.top - top];
    app.canvas.setDirty(true, true);
    return [right - left, bottom - top];
}"""


def shown(loaders: int) -> tuple[str, ...]:
    """The pictures of a graph with so many LoadImage: one alone is for a style."""
    return (*PICTURES, f"{SECOND_STYLE}.jpg")[loaders == 1:]


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


async def results_of(server: Server, example: Path) -> list[bytes]:
    """The PNGs that the built-in model draws of an example."""
    for muted in (True, False):  # what is muted writes the file of a style, which the rest reads
        prompt = use_demo_model(load_prompt(example, await object_info(server.url), muted))
        use_pictures(prompt, shown(len(find(prompt, "LoadImage"))), MEGAPIXELS)
        for kind, strength in STRENGTHS.items():
            for inputs in find(prompt, kind):
                inputs[strength] = 0.0
        done = await run_prompt(server.url, prompt)
    return await saved_files(server.url, done)


def opened(example: Path) -> dict:
    """The workflow, with the demo's pictures."""
    workflow = json.loads(example.read_text(encoding="utf-8"))
    loaders = [node for node in workflow["nodes"] if node["type"] == "LoadImage"]
    for node, name in zip(loaders, shown(len(loaders))):
        node["widgets_values"][0] = name
    return workflow


def touch_models(base: Path, examples: list[Path]):
    """Empty files of the names that the examples ask for, or the page would mark them as missing."""
    nodes = [node for example in examples for node in opened(example)["nodes"]]
    for model in (model for node in nodes for model in node["properties"].get("models", [])):
        path = base / "models" / model["directory"] / model["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def draw(page, example: Path, results: list[bytes]):
    arguments = [opened(example), [data_url(result) for result in results], MARGINS]
    width, height = (int(side) for side in page.evaluate(OPEN, arguments))
    page.set_viewport_size({"width": width + MARGINS["left"] + MARGINS["right"], "height": height + MARGINS["top"]
                            + MARGINS["bottom"]})
    page.evaluate(OPEN, arguments)
    page.wait_for_timeout(3000)
    clip = {"x": MARGINS["left"], "y": MARGINS["top"], "width": width, "height": height}
    shot = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    small = shot.resize((WIDTH, round(WIDTH * shot.height / shot.width)), Image.LANCZOS)
    small.save(example.with_suffix(".jpg"), quality=78)
    say(f"Drawn: {example.with_suffix('.jpg')}")


def main():
    with tempfile.TemporaryDirectory() as folder, serve(running_host(), Path(folder)) as server:
        for name in PICTURES:
            shutil.copyfile(ROOT / "tools" / "demo" / "images" / name, Path(folder) / "input" / name)
        draw_style(STYLES[SECOND_STYLE]).save(Path(folder) / "input" / f"{SECOND_STYLE}.jpg", quality=90)
        shutil.copytree(ROOT / "tests" / "pictures", Path(folder) / "input" / CONTENTS,
                        ignore=shutil.ignore_patterns("*.md"))
        loras = Path(folder) / "models" / "loras"
        loras.mkdir(parents=True, exist_ok=True)
        save_file({}, loras / "style_lora.safetensors")
        examples = [EXAMPLES / f"{name}.json" for name in sys.argv[1:]] or sorted(EXAMPLES.glob("*.json"))
        results = {example: asyncio.run(results_of(server, example)) for example in examples
                   if "sdxl" not in example.stem}
        touch_models(Path(folder), examples)
        change_settings(server.url, SETTINGS)
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.set_default_timeout(120_000)
            open_page(page, server.url)
            for example in examples:
                draw(page, example, results.get(example, []))


if __name__ == "__main__":
    main()
