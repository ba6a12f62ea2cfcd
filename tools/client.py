"""Queue a prompt on a running ComfyUI and follow it over its websocket (with aiohttp and Pillow, which ComfyUI
installs).
"""

import asyncio
import contextlib
import io
import json
import uuid
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
from PIL import Image

HEARTBEAT_SECONDS = 60  # a server that does not answer within half of it is gone
PREVIEW = 1  # first four bytes of a binary message that carries a preview picture


class Run(NamedTuple):
    """status "success", "error" or "interrupted"; outputs {node id: ...} and messages {event: data} as /history tells
    them; progress (node id, value, maximum) and the number of preview pictures as the websocket told them.
    """
    status: str
    outputs: dict
    messages: dict
    progress: list[tuple[str, int, int]]
    previews: int

    @property
    def steps(self) -> int:
        """Of all samplings and inversions together, as their progress bars told them; a batch counts once."""
        return sum({node: maximum for node, _, maximum in self.progress if maximum > 1}.values())


class RefusedError(ValueError):
    """ComfyUI does not take the prompt: a node or a file in it is not known there."""


async def run_prompt(url: str, prompt: dict, on_progress: Callable[[int, int], None] | None = None,
                     interrupt_at: int | None = None) -> Run:
    """Queue `prompt` and wait for its end. `interrupt_at` presses Cancel when some node reports that step.

    A prompt that is no longer waited for is withdrawn. ConnectionError when the server goes away.
    """
    client_id = uuid.uuid4().hex
    progress, previews = [], 0
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=3600)) as session:
        async with session.ws_connect(f"/ws?clientId={client_id}", max_msg_size=0,
                                      heartbeat=HEARTBEAT_SECONDS) as socket:
            async with session.post("/prompt", json={"prompt": prompt, "client_id": client_id}) as response:
                answer = await response.json()
                if response.status != 200:
                    raise RefusedError(f"ComfyUI refused the prompt: {json.dumps(answer)}")
            prompt_id = answer["prompt_id"]
            try:
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        previews += int.from_bytes(message.data[:4], "big") == PREVIEW
                        continue
                    if message.type == aiohttp.WSMsgType.ERROR:
                        raise ConnectionError(f"{url} does not answer any more")
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
                else:
                    raise ConnectionError(f"{url} closed the connection")
            except asyncio.CancelledError:
                await withdraw(session, prompt_id)
                raise
        async with session.get(f"/history/{prompt_id}") as response:
            history = (await response.json())[prompt_id]
        messages = dict(history["status"]["messages"])
        status = next(status for status in ("success", "error", "interrupted") if f"execution_{status}" in messages)
        return Run(status, history["outputs"], messages, progress, previews)


async def withdraw(session: aiohttp.ClientSession, prompt_id: str):
    """Take a prompt out of the queue, or interrupt it; a server that does not answer is left alone."""
    with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
        for path, body in (("/queue", {"delete": [prompt_id]}), ("/interrupt", {"prompt_id": prompt_id})):
            await session.post(path, json=body, timeout=aiohttp.ClientTimeout(total=5))


async def upload(url: str, subfolder: str, name: str, data: bytes) -> str:
    """Put a picture into ComfyUI's input folder, unless it is there; the name by which LoadImage finds it."""
    form = aiohttp.FormData({"subfolder": subfolder})
    form.add_field("image", data, filename=name)
    async with aiohttp.ClientSession(url) as session, session.post("/upload/image", data=form) as response:
        response.raise_for_status()
        answer = await response.json()
        return f"{answer['subfolder']}/{answer['name']}"


async def fetch(url: str, path: str, **params) -> bytes:
    async with aiohttp.ClientSession(url) as session, session.get(path, params=params) as response:
        response.raise_for_status()
        return await response.read()


MARKER = {"number": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
          "shown": {"class_type": "PreviewAny", "inputs": {"source": ["number", 0]}}}


async def free(url: str):
    """Make ComfyUI forget cached results and unload models, so that a prompt it knows runs again.

    It does so when its worker is next awake, which on a busy machine may be after another prompt: until then it
    remembers MARKER.
    """
    await run_prompt(url, MARKER)
    what = {"unload_models": True, "free_memory": True}
    async with aiohttp.ClientSession(url) as session, session.post("/free", json=what) as response:
        response.raise_for_status()
    while (await run_prompt(url, MARKER)).messages["execution_cached"]["nodes"]:
        pass


async def saved_files(url: str, run: Run) -> list[bytes]:
    """The PNGs that a run's SaveImage or PreviewImage wrote."""
    return [await fetch(url, "/view", filename=image["filename"], subfolder=image["subfolder"], type=image["type"])
            for output in run.outputs.values() for image in output.get("images", [])]


async def saved_file(url: str, run: Run) -> bytes:
    """The only one."""
    [saved] = await saved_files(url, run)
    return saved


async def saved_picture(url: str, run: Run) -> Image.Image:
    """The same as an RGB picture."""
    return Image.open(io.BytesIO(await saved_file(url, run))).convert("RGB")


async def object_info(url: str) -> dict:
    return json.loads(await fetch(url, "/object_info"))
