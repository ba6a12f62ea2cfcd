"""What a server hands out to the help panel and the translated interface."""

import asyncio
import json
from pathlib import Path

from tools.client import fetch, object_info

ROOT = Path(__file__).resolve().parents[2]


def test_help_pages_are_where_the_frontend_looks(server):
    info = asyncio.run(object_info(server.url))
    pages = sorted((ROOT / "web" / "docs").glob("*/*.md"))
    assert pages
    for page in pages:
        node = page.parent.name
        folder = info[node]["python_module"].removeprefix("custom_nodes.")
        assert asyncio.run(fetch(server.url, f"/extensions/{folder}/docs/{node}/{page.name}")) == page.read_bytes()


def test_translations_are_served(server):
    expected = {}
    for path in (ROOT / "locales").glob("*/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        expected.setdefault(path.parent.name, {}).update(content if path.stem == "main" else {path.stem: content})
    assert expected.keys() == {"en", "zh"} and "nodeDefs" in expected["zh"]
    assert json.loads(asyncio.run(fetch(server.url, "/i18n"))) == expected
