"""Prompts to one real server, with Cancel now and then; the server has to answer, and to stay as it was."""

import asyncio
import json
import random
import re
from collections import Counter
from contextlib import contextmanager

import aiohttp
from hypothesis import strategies as st

from ..client import RefusedError, Run, free, object_info, run_prompt
from ..demo.lora import write_lora
from ..host import ROOT, WORK, running_host
from ..server import link, serve
from .prompts import prompts

BASE = WORK / "campaign"
SECONDS = 300  # for one prompt
LOOK_AFTER = 25  # prompts, after which the server is compared with how it began
SPARE_TENSORS = 0.02  # share of them that may come and go
OUR_FRAME = re.compile(r'File "[^"]*/(?:nodes|styleid_core)/[\w/]+\.py"')
LONGEST = 1000  # characters; a sentence that repeats a user's whole text is none
# What ComfyUI says, with a tip, of a prompt that is another model's.
OTHER_PROMPT = "mat1 and mat2 shapes cannot be multiplied"


class ServerPart:
    """`check` queues a prompt and looks at how it ends; `ended` counts that."""

    def __init__(self, url: str):
        self.url, self.ended = url, Counter()
        self.healthy = asyncio.run(look(url))
        cancel_after = st.none() | st.sampled_from((0.0, 0.05, 0.2, 0.5, 1.0))
        self.strategies = {"kind_and_prompt": prompts(asyncio.run(object_info(url))), "cancel_after": cancel_after}

    def check(self, kind_and_prompt: tuple[str, dict], cancel_after: float | None):
        """AssertionError, or what aiohttp raises of a server that is gone, tells what is wrong."""
        kind, prompt = kind_and_prompt
        self.ended[kind, asyncio.run(asyncio.wait_for(self.end_of(prompt, cancel_after), SECONDS))] += 1
        if self.ended.total() % LOOK_AFTER == 0:
            asyncio.run(self.compare())

    async def end_of(self, prompt: dict, cancel_after: float | None) -> str:
        running = asyncio.create_task(run_prompt(self.url, prompt))
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            async with aiohttp.ClientSession(self.url) as session:
                await session.post("/interrupt")
        try:
            run = await running
        except RefusedError as error:
            return end_of_refusal(json.loads(str(error).partition(": ")[2]))
        except aiohttp.ContentTypeError:
            return "ComfyUI itself fails"  # in its validation, before it looks at any node
        assert run.status != "interrupted" or cancel_after is not None, "interrupted by nobody"
        return end_of_run(run)

    async def compare(self):
        now = await look(self.url)
        if self.has_grown(now):  # a busy machine may take its time to forget
            now = await look(self.url)
        assert now["digest"] == self.healthy["digest"], "the same transfer gives another result"
        assert not self.has_grown(now), f"tensors grew from {self.healthy['tensors']} to {now['tensors']}"
        self.ended["the same server after all that", "right"] += 1

    def has_grown(self, now: dict) -> bool:
        return now["tensors"] > (1 + SPARE_TENSORS) * self.healthy["tensors"]


def end_of_refusal(answer: dict) -> str:
    """How ComfyUI's validation ended: it names what is wrong; an exception in it must not have passed our code."""
    reasons = [reason for node in answer.get("node_errors", {}).values() for reason in node["errors"]]
    for reason in reasons:
        if "exception" in reason["type"]:
            frames = reason.get("extra_info", {}).get("traceback", [])
            assert not any(map(is_ours, frames)), f"validation: {reason['details']}"
            return "ComfyUI itself fails"
    return "refused"


def end_of_run(run: Run) -> str:
    """AssertionError for an error of ours that is no sentence, and for a result with NaN."""
    if run.status == "interrupted":
        return "cancelled"
    if run.status == "success":
        for report in (report for output in run.outputs.values() for report in output.get("report", ())):
            assert report["finite"], f"a result with NaN or infinity, of shape {report['shape']}, without an error"
        return "right"
    failed = run.messages["execution_error"]
    frames, message = failed["traceback"], failed["exception_message"].strip()
    if not any(map(is_ours, frames)) or message.startswith(OTHER_PROMPT):
        return "ComfyUI itself fails"
    sentence = failed["exception_type"] == "ValueError" and is_ours(frames[-1]) and is_sentence(message)
    assert sentence, f"{failed['node_type']}: {failed['exception_type']}: {message}\n{''.join(frames)}"
    return "refused"


def is_ours(frame: str) -> bool:
    return bool(OUR_FRAME.search(frame)) and (str(ROOT) in frame or "custom_nodes" in frame)


def is_sentence(message: str) -> bool:
    """Begins as a sentence or with the name of a setting, says something, and ends with a full stop."""
    begins = re.match(r'[A-Z][a-z]* \w+|[a-z_]+ ["\d\-]|"', message)
    return bool(begins) and message.endswith((".", "?", "!")) and len(message.split()) >= 5 and len(message) <= LONGEST


async def look(url: str) -> dict:
    """A fixed transfer's digest, and what the server holds when it has forgotten everything else."""
    await free(url)
    transfer = {
        "model": {"class_type": "StyleIDDemoModel", "inputs": {}},
        "latent": {"class_type": "CampaignLatent", "inputs": dict(shape="1,8,8,8", fill="noise", mask="none", seed=1)},
        "sampler": {"class_type": "StyleIDSampler", "inputs": dict(
            model=["model", 0], content=["latent", 0], style=["latent", 0], positive=["model", 1], steps=2, gamma=0.75,
            temperature=1.5, color_strength=1.0, blocks="6-11", schedule="ddim")},
        "report": {"class_type": "CampaignReport", "inputs": dict(value=["sampler", 0], salt=0)}}
    run = await run_prompt(url, transfer)
    await free(url)
    health = {"health": {"class_type": "CampaignHealth", "inputs": dict(salt=random.randrange(2 ** 30))}}
    held = await run_prompt(url, health)
    return run.outputs["report"]["report"][0] | held.outputs["health"]["health"][0]


@contextmanager
def open_part():
    write_lora(BASE / "models" / "loras" / "style_lora.safetensors")
    link(ROOT / "tools" / "campaign" / "probe", BASE / "custom_nodes" / "styleid_campaign")
    with serve(running_host(), BASE) as server:
        yield ServerPart(server.url)
