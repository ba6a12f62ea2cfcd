"""Queue a prompt on a running ComfyUI and follow it over its websocket (with aiohttp and Pillow, which ComfyUI installs)."""

import asyncio
import io
import json
import uuid
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
from PIL import Image

PREVIEW = 1  # first four bytes of a binary message that carries a preview picture


class Run(NamedTuple):
    """status "success", "error" or "interrupted"; outputs {node id: ...} and messages {event: data} as /history tells them;
    progress (node id, value, maximum) and the number of preview pictures as the websocket told them."""
    status: str
    outputs: dict
    messages: dict
    progress: list[tuple[str, int, int]]
    previews: int


async def run_prompt(url: str, prompt: dict, on_progress: Callable[[int, int], None] | None = None, interrupt_at: int | None = None) -> Run:
    """Queue `prompt` and wait for its end. `interrupt_at` presses Cancel when some node reports that step."""
    client_id = uuid.uuid4().hex
    progress, previews = [], 0
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=3600)) as session:
        async with session.ws_connect(f"/ws?clientId={client_id}", max_msg_size=0) as socket:
            async with session.post("/prompt", json={"prompt": prompt, "client_id": client_id}) as response:
                answer = await response.json()
                if response.status != 200:
                    raise ValueError(f"ComfyUI refused the prompt: {json.dumps(answer)}")
            prompt_id = answer["prompt_id"]
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    previews += int.from_bytes(message.data[:4], "big") == PREVIEW
                    continue
                event = json.loads(message.data)
                data = event["data"]
                if event["type"] == "progress" and data["prompt_id"] == prompt_id:
                    progress.append((data["node"], data["value"], data["max"]))
                    if on_progress:
                        on_progress(data["value"], data["max"])
                    if interrupt_at is not None and data["value"] >= interrupt_at:
                        interrupt_at = None
                        await session.post("/interrupt")
                elif event["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
                    break
        async with session.get(f"/history/{prompt_id}") as response:
            history = (await response.json())[prompt_id]
        messages = dict(history["status"]["messages"])
        status = next(status for status in ("success", "error", "interrupted") if f"execution_{status}" in messages)
        return Run(status, history["outputs"], messages, progress, previews)


async def fetch(url: str, path: str, **params) -> bytes:
    async with aiohttp.ClientSession(url) as session, session.get(path, params=params) as response:
        response.raise_for_status()
        return await response.read()


async def free(url: str):
    """Make ComfyUI forget cached results and unload models, so that a prompt it knows runs again."""
    async with aiohttp.ClientSession(url) as session:
        async with session.post("/free", json={"unload_models": True, "free_memory": True}) as response:
            response.raise_for_status()
        await asyncio.sleep(2)  # the worker takes note of it between two prompts


async def saved_picture(url: str, run: Run) -> Image.Image:
    """The one RGB picture that a run's SaveImage wrote."""
    [saved] = [image for output in run.outputs.values() for image in output.get("images", [])]
    data = await fetch(url, "/view", filename=saved["filename"], subfolder=saved["subfolder"], type=saved["type"])
    return Image.open(io.BytesIO(data)).convert("RGB")


async def object_info(url: str) -> dict:
    return json.loads(await fetch(url, "/object_info"))
