"""The server driven over HTTP and its websocket."""

import asyncio
from pathlib import Path

import pytest

from tools.client import object_info, run_prompt
from tools.workflow import load_prompt, use_demo_model, use_pictures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prompt(server):
    """prompt("styleid_simple"): the API prompt of an example workflow, for the demo model and small pictures."""
    info = asyncio.run(object_info(server.url))

    def load(name):
        loaded = use_demo_model(load_prompt(ROOT / "example_workflows" / f"{name}.json", info))
        return use_pictures(loaded, ("styleid_content.jpg", "styleid_style.jpg"), 0.0156)

    return load


@pytest.fixture
def run(server):
    """run(prompt, interrupt_at=None): queue a prompt and wait for its end."""
    return lambda prompt, **options: asyncio.run(run_prompt(server.url, prompt, **options))
