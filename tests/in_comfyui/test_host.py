"""The names that the pack leans on are in this ComfyUI: `nodes/engine/host.py`, one by one."""

import functools
import re
from pathlib import Path

import comfyui_version
import folder_paths
import pytest

FOLDERS = ("comfy", "comfy_api", "comfy_extras")


def named(value) -> list[str]:
    """The names that a constant holds."""
    return [value] if isinstance(value, str) else [name for each in value for name in named(each)]


@pytest.fixture
def host(pack_module):
    return pack_module("nodes.engine.host")


@functools.cache
def sources() -> str:
    root = Path(folder_paths.base_path)
    return "\n".join(path.read_text(encoding="utf-8") for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def is_there(name: str) -> bool:
    """As the name of a class, a key that is written out, or one that comes as a keyword."""
    return re.search(rf"class {name}\b|[\"']{re.escape(name)}[\"']|\b{re.escape(name)} ?=[^=]", sources()) is not None


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_every_name_is_in_this_comfyui(host, pack_module):
    layouts = pack_module("nodes.engine.families.layouts").LAYOUTS
    constants = [value for name, value in vars(host).items() if name.isupper() and isinstance(value, (str, tuple))]
    names = {*named(constants), *layouts}
    assert len(names) > 40 and host.SINCE.keys() <= names
    here = version(comfyui_version.__version__)
    expected = {name for name in names if here >= version(host.SINCE.get(name, "0.0.0"))}
    assert {name for name in expected if not is_there(name)} == set()


def test_a_name_that_is_gone_would_be_missed():
    assert is_there("cond_or_uncond") and is_there("NextDiT") and not is_there("cond_and_uncond")
