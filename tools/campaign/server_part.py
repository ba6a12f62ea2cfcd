"""Random prompts to one real server, with Cancel now and then; the server has to answer, and to stay as it was."""

import asyncio
import json
import os
import random
import re
from contextlib import ExitStack, suppress

import aiohttp

from ..client import RefusedError, free, object_info, run_prompt
from ..demo.lora import write_lora
from ..host import ROOT, WORK, running_host
from ..server import link, serve
from .control import behind_us, without_us
from .errors import Error, is_ours, is_refusal, told
from .graphs import OURS, random_prompt
from .networks import write_weights
from .outcome import Outcome
from .values import links

BASE = WORK / "campaign"
# What ComfyUI says, with a tip, of a prompt that is another model's.
OTHER_PROMPT = "mat1 and mat2 shapes cannot be multiplied"
SECONDS = 300  # for one prompt
LOOK_AFTER = 25  # cases, after which the server is compared with how it began
SPARE_TENSORS = 0.02  # share of them that may come and go


class ServerPart:
    name = "server"

    def __init__(self, seed: int):
        self.seed, self.stack = seed, ExitStack()
        write_weights(BASE / "torch" / "hub" / "checkpoints")
        write_lora(BASE / "models" / "loras" / "style_lora.safetensors")
        link(ROOT / "tools" / "campaign" / "probe", BASE / "custom_nodes" / "styleid_campaign")
        os.environ["TORCH_HOME"] = str(BASE / "torch")
        self.start()

    def start(self):
        self.stack.close()
        self.url = self.stack.enter_context(serve(running_host(), BASE)).url
        self.info = asyncio.run(object_info(self.url))
        self.healthy = asyncio.run(self.look())

    def close(self):
        self.stack.close()

    def attempt(self, case: int) -> list[Outcome]:
        rng = random.Random(f"{self.seed} server {case}")
        kind, prompt = random_prompt(rng, self.info)
        cancel_after = rng.choice((0.0, 0.05, 0.2, 0.5, 1.0)) if rng.random() < 0.2 else None
        outcomes = [asyncio.run(self.judge(kind, prompt, cancel_after))]
        if case % LOOK_AFTER == LOOK_AFTER - 1 and outcomes[0].verdict != "crashed":
            outcomes.append(asyncio.run(self.compare()))
        if any(outcome.verdict == "crashed" for outcome in outcomes):
            self.start()
        return outcomes

    async def judge(self, kind: str, prompt: dict, cancel_after: float | None) -> Outcome:
        tried = f"{kind}, cancelled" if cancel_after is not None else kind
        try:
            run = await asyncio.wait_for(self.run(prompt, cancel_after), SECONDS)
        except RefusedError as error:
            return Outcome(tried, *judge_refusal(json.loads(str(error).partition(": ")[2]), prompt))
        except aiohttp.ContentTypeError as error:
            return Outcome(tried, "host", f"/prompt answered {error.status}")
        except asyncio.TimeoutError:
            return Outcome(tried, "crashed", f"no end after {SECONDS} s: {json.dumps(prompt)}")
        except (aiohttp.ClientError, ConnectionError) as error:
            return Outcome(tried, "crashed", f"{error!r}: {json.dumps(prompt)}")
        if run.status == "error":
            verdict, detail = await self.judge_error(prompt, run)
            return Outcome(tried, verdict, detail)
        if run.status == "interrupted":
            return Outcome(tried, "right" if cancel_after is not None else "wrong", "interrupted by nobody")
        return Outcome(tried, *judge_reports(run.outputs))

    async def run(self, prompt: dict, cancel_after: float | None = None):
        running = asyncio.create_task(run_prompt(self.url, prompt))
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            async with aiohttp.ClientSession(self.url) as session:
                await session.post("/interrupt")
        return await running

    async def judge_error(self, prompt: dict, run) -> tuple[str, str]:
        failed = run.messages["execution_error"]
        detail = f"{failed['node_type']}: {told(error_of(run))}"
        control = None
        if not is_refusal(error_of(run)):
            if not behind_us(prompt, failed["node_id"]):
                return "host", detail
            if unlinked(prompt, self.info):
                return "host", f"ComfyUI takes a value where only a link makes sense: {detail}"
            with suppress(RefusedError, asyncio.TimeoutError, aiohttp.ContentTypeError):
                control = await asyncio.wait_for(run_prompt(self.url, without_us(prompt)), SECONDS)
        return verdict_of(run, control), detail

    async def look(self) -> dict:
        """A fixed transfer's digest and what the server holds when it has forgotten everything else."""
        await free(self.url)
        transfer = {
            "model": {"class_type": "StyleIDDemoModel", "inputs": {}},
            "latent": {"class_type": "CampaignLatent",
                       "inputs": dict(shape="1,8,8,8", fill="noise", mask="none", seed=1)},
            "sampler": {"class_type": "StyleIDSampler", "inputs": dict(
                model=["model", 0], content=["latent", 0], style=["latent", 0], positive=["model", 1], steps=2,
                gamma=0.75, temperature=1.5, color_strength=1.0, blocks="6-11", schedule="ddim")},
            "report": {"class_type": "CampaignReport", "inputs": dict(value=["sampler", 0], salt=0)}}
        run = await asyncio.wait_for(run_prompt(self.url, transfer), SECONDS)
        await free(self.url)
        return run.outputs["report"]["report"][0] | await health(self.url)

    def has_grown(self, now: dict) -> bool:
        return now["tensors"] > (1 + SPARE_TENSORS) * self.healthy["tensors"]

    async def compare(self) -> Outcome:
        tried = "the same server after all that"
        try:
            now = await self.look()
            if self.has_grown(now):  # a busy machine may take its time to forget
                now = await self.look()
        except (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError) as error:
            return Outcome(tried, "crashed", repr(error))
        if now["digest"] != self.healthy["digest"]:
            return Outcome(tried, "wrong", "the same transfer gives another result")
        if self.has_grown(now):
            return Outcome(tried, "wrong", f"tensors grew from {self.healthy['tensors']} to {now['tensors']}")
        return Outcome(tried, "right")


async def health(url: str, trim: bool = False) -> dict:
    prompt = {"health": {"class_type": "CampaignHealth", "inputs": dict(salt=random.randrange(2 ** 30), trim=trim)}}
    return (await asyncio.wait_for(run_prompt(url, prompt), SECONDS)).outputs["health"]["health"][0]


def error_of(run) -> Error:
    failed = run.messages["execution_error"]
    return Error(failed["exception_type"].rpartition(".")[2], failed["exception_message"].strip(), failed["traceback"])


def unlinked(prompt: dict, info: dict) -> bool:
    """Whether some input of ours that takes a link has none, which no frontend can send."""
    return any(name in node["inputs"] and not isinstance(node["inputs"][name], list)
               for node in prompt.values() if node["class_type"] in OURS for name in links(info[node["class_type"]]))


def verdict_of(run, control) -> str:
    """Of an error: raw is what ComfyUI's own nodes, put where ours were, do not say too, maybe of another batch."""
    if is_refusal(error_of(run)):
        return "refused"
    if error_of(run).message.startswith(OTHER_PROMPT):
        return "host"
    same = control and control.status == "error" and without_numbers(control) == without_numbers(run)
    return "host" if same else "raw"


def without_numbers(run) -> tuple[str, str]:
    kind, message, _ = error_of(run)
    return kind, re.sub(r"\d+", "N", message)


def judge_refusal(answer: dict, prompt: dict) -> tuple[str, str]:
    """ComfyUI's validation names what is wrong; an exception in it is ours where it passed our code."""
    reasons = [reason for node in answer.get("node_errors", {}).values()
               for reason in node["errors"]] or [answer["error"]]
    for reason in reasons:
        if "exception" in reason["type"]:
            frames = reason.get("extra_info", {}).get("traceback", [])
            return "raw" if any(map(is_ours, frames)) else "host", f"validation: {reason['details']}"
    return "refused", ""


def judge_reports(outputs: dict) -> tuple[str, str]:
    reports = [report for output in outputs.values() for report in output.get("report", [])]
    if not reports:
        return "wrong", "no result"
    for report in reports:
        if not report["finite"]:
            return "wrong", f"a result with NaN or infinity, of shape {report['shape']}, without an error"
    return "right", ""


def make_part(seed: int) -> ServerPart:
    return ServerPart(seed)
