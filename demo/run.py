"""Queue the one-node example on a running ComfyUI and put content, style and result side by side. Called by dev.py demo."""

import argparse
import asyncio
import shutil
import sys
import time
from pathlib import Path

from PIL import Image

from tools.client import object_info, run_prompt, saved_picture
from tools.host import ROOT, say
from tools.workflow import find, load_prompt, use_demo_model

DEMO = ROOT / "demo"
DEMO_MEGAPIXELS = 0.14  # 384 x 384: the built-in model is small, but there may be no GPU


async def make_prompt(options) -> dict:
    prompt = load_prompt(ROOT / "example_workflows" / "styleid_simple.json", await object_info(options.url))
    for inputs, picture in zip(find(prompt, "LoadImage"), (options.content, options.style)):
        name = f"{Path(inputs['image']).stem}{picture.suffix}"
        shutil.copyfile(picture, options.input / name)
        inputs["image"] = name
    if options.checkpoint:
        [loader] = find(prompt, "CheckpointLoaderSimple")
        loader["ckpt_name"] = options.checkpoint
        return prompt
    for inputs in find(prompt, "ImageScaleToTotalPixels"):
        inputs["megapixels"] = DEMO_MEGAPIXELS
    return use_demo_model(prompt)


def show_progress(value: int, maximum: int):
    bar = "#" * (30 * value // maximum)
    print(f"\r[styleid] [{bar:<30}] {value}/{maximum}", end="" if value < maximum else "\n", flush=True)


def side_by_side(pictures: list[Image.Image], height: int) -> Image.Image:
    scaled = [picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.LANCZOS) for picture in pictures]
    gap = 8
    strip = Image.new("RGB", (sum(p.width for p in scaled) + gap * (len(scaled) - 1), height), "white")
    x = 0
    for picture in scaled:
        strip.paste(picture, (x, 0))
        x += picture.width + gap
    return strip


async def stylise(options) -> int:
    start = time.time()
    say(f"Stylising {options.content.name} after {options.style.name}")
    run = await run_prompt(options.url, await make_prompt(options), show_progress)
    if run.status != "success":
        print(f"error: {run.messages.get('execution_error', {}).get('exception_message', run.status)}", file=sys.stderr)
        return 1
    pictures = {"content": Image.open(options.content).convert("RGB"), "style": Image.open(options.style).convert("RGB"),
                "result": await saved_picture(options.url, run)}
    for name, picture in pictures.items():
        picture.save(DEMO / f"{name}.png")
    side_by_side(list(pictures.values()), height=512).save(DEMO / "side_by_side.png")
    say(f"Done in {time.time() - start:.0f} s: {DEMO / 'side_by_side.png'}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--input", type=Path, required=True, help="ComfyUI's input folder")
    parser.add_argument("--content", type=Path, required=True)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--checkpoint", help="name of a checkpoint that ComfyUI lists")
    return asyncio.run(stylise(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
