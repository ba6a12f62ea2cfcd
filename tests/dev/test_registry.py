"""What the registry ships: packed by its own tool, unzipped, loaded by ComfyUI and used."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.host import NEWEST, running_host

ROOT = Path(__file__).resolve().parents[2]
TRANSFER = """
import sys
import tools.in_process
import nodes, torch
from pathlib import Path
from tools.miniature.unet import conditioning, load_unet
from tools.pack import load_pack

pack = load_pack(Path(sys.argv[1]))
latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
[result] = pack.StyleIDSampler(model=load_unet(), content=latent, style=latent, positive=conditioning(), steps=2)
assert result["samples"].isfinite().all()
print(*(name for name, node in nodes.NODE_CLASS_MAPPINGS.items() if node.CATEGORY == "styleid"))
"""


def comfy(*arguments) -> subprocess.CompletedProcess:
    """comfy-cli without questions and telemetry, in the pack's folder."""
    environment = os.environ | {"DO_NOT_TRACK": "1"}
    return subprocess.run([Path(sys.executable).with_name("comfy"), "--skip-prompt", *arguments], cwd=ROOT,
                          env=environment, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)


@pytest.fixture
def shipped(tmp_path):
    """The folder that a user of ComfyUI's Manager gets."""
    packed = comfy("node", "pack")
    archive = ROOT / "node.zip"
    assert packed.returncode == 0, packed.stdout
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "styleid")
    archive.unlink()
    return tmp_path / "styleid"


def transfer_with(folder: Path) -> set[str]:
    """The nodes of the pack in `folder`, after one of them has made a picture."""
    done = subprocess.run([sys.executable, "-c", TRANSFER, str(folder)], cwd=ROOT, text=True, capture_output=True,
                          timeout=300, env=os.environ | {"COMFYUI_PATH": str(running_host().comfyui)})
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


OURS = {"CaptureSelfAttention", "DDIMInvert", "LatentAdaIN", "InjectStyleKV", "StyleIDSampler", "StyleIDOptions",
        "StyleIDStrength", "StyleIDCurve", "StyleIDSweep", "StyleIDStartFrequencies", "StyleIDPositions",
        "FireFlowSampler", "SaveStyleIDFeatures", "LoadStyleIDFeatures"}


def test_what_is_shipped_works(shipped):
    assert transfer_with(shipped) == OURS | {"StyleIDScores"}
    assert {path.name for path in (shipped / "subgraphs").iterdir()} == {
        "Style Transfer (StyleID).json", "Style Transfer (StyleID, transformers).json"}
    assert not (shipped / "tests").exists() and not (shipped / "docs").exists()
    size = sum(path.stat().st_size for path in shipped.rglob("*"))
    assert size < 2.3e6, "users download more than nodes, help and examples"


@pytest.mark.slow
def test_an_optional_node_does_not_take_the_others_with_it(shipped):
    (shipped / "styleid_core" / "metrics" / "networks.py").write_text("import torchvision_of_another_torch")
    assert transfer_with(shipped) == OURS


def guard(pack: Path, folder: Path) -> subprocess.CompletedProcess:
    """comfy-import-guard on the imports and calls of `pack`, beside this ComfyUI as a git repository in `folder`."""
    repository, installed = folder / "ComfyUI", folder / "install"
    repository.mkdir(parents=True)
    git = ["git", "--git-dir", repository / ".git", "--work-tree", running_host().comfyui]
    of_comfyui = ["comfy", "comfy_api", "comfy_execution", "latent_preview.py", "folder_paths.py", "nodes.py"]
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init"], ["add", "--force", *of_comfyui], [*author, "commit", "--message", "this ComfyUI"]):
        subprocess.run([*git, *arguments], cwd=running_host().comfyui, check=True, capture_output=True)
    shutil.copytree(pack, installed / "custom_nodes" / "styleid")
    command = [Path(sys.executable).with_name("comfy-import-guard"), "--cache-dir", folder, "--offline", "check",
               "--strict", "--comfy-dir", installed, "--target", "HEAD", "--no-update"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_this_comfyui_has_what_is_imported_and_called(shipped, tmp_path):
    checked = guard(shipped, tmp_path / "as it is")
    assert checked.returncode == 0 and "SAFE" in checked.stdout, checked.stdout + checked.stderr
    with (shipped / "nodes" / "engine" / "memory.py").open("a") as file:
        file.write("\ncomfy.model_management.no_such_function()\ncomfy.utils.common_upscale()\n")
    checked = guard(shipped, tmp_path / "broken")
    assert checked.returncode == 1
    for found in ("comfy.model_management.no_such_function", "comfy.utils.common_upscale"):
        assert found in checked.stdout


def test_the_registry_takes_it():
    validated = comfy("node", "validate")
    assert validated.returncode == 0 and "passed" in validated.stderr, validated.stdout + validated.stderr


GRAPHS = sorted(path for folder in ("example_workflows", "subgraphs") for path in (ROOT / folder).glob("*.json"))


LOADERS = {"CheckpointLoaderSimple": "checkpoints", "ControlNetLoader": "controlnet", "UNETLoader": "diffusion_models",
           "CLIPLoader": "text_encoders", "VAELoader": "vae"}


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_example_graphs_name_what_they_need(path):
    """So that whoever opens a shared one is offered the missing pack and the missing models, and has a picture to begin
    with.
    """
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ours = tuple(re.search(rf'^{key} = "(.+)"', project, re.MULTILINE)[1] for key in ("name", "version"))
    workflow = json.loads(path.read_text(encoding="utf-8"))
    inside = {box["id"]: box["nodes"] for box in workflow.get("definitions", {}).get("subgraphs", [])}
    for node in sum(inside.values(), workflow["nodes"]):
        kind, properties = node["type"], node["properties"]
        if kind == "MarkdownNote":
            continue
        assert (properties["cnr_id"],
                properties["ver"]) == (ours if kind in {*OURS, *inside} else ("comfy-core", NEWEST)), kind
        if kind == "LoadImage":
            assert (running_host().comfyui / "input" / node["widgets_values"][0]).exists()
        for folder in LOADERS.get(kind, "").split():
            [offered] = properties["models"]
            assert offered["name"] == node["widgets_values"][0] and offered["directory"] == folder
            assert re.fullmatch(rf"https://huggingface\.co/\S+/{re.escape(offered['name'])}\?download=true",
                                offered["url"])
