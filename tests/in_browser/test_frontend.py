"""What a user sees: the example workflows, the names of nodes, and their help pages."""

import json
import re
import urllib.request
from itertools import combinations

import pytest

from tools.host import ROOT
from tools.workflow import find, load_prompt

EXAMPLES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
CHINESE = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def object_info(server):
    with urllib.request.urlopen(f"{server.url}/object_info", timeout=60) as response:
        return json.load(response)


def overlap(a: list, b: list) -> bool:
    """Of two boxes (left, top, width, height)."""
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))


@pytest.mark.parametrize("language", ["en"], indirect=True)
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_opens_as_it_was_saved(page, object_info, example):
    page.load(example)
    boxes = page.nodes("[...n.boundingRect]")
    assert len(boxes) > 10 and not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    assert page.errors == []
    sent = page.prompt()
    read = load_prompt(ROOT / "example_workflows" / f"{example}.json", object_info)
    assert {id: (node["class_type"], node["inputs"]) for id, node in sent.items()} == {
        id: (node["class_type"], node["inputs"]) for id, node in read.items()}


def test_titles_are_translated(page, language, object_info):
    page.load("styleid_simple")
    names = CHINESE if language == "zh" else object_info
    assert names["StyleIDSampler"]["display_name"] in page.nodes("n.title")


@pytest.mark.parametrize("node", ["StyleIDSampler"])
def test_the_help_panel_shows_the_page(page, language, node):
    page.load("styleid_simple")
    page.page.evaluate("""type => {
        const node = app.canvas.graph.nodes.find(n => n.type === type);
        app.canvas.selectItems([node]);
        app.canvas.fitViewToSelectionAnimated?.();
        app.canvas.setDirty(true, true);
    }""", node)
    page.page.get_by_test_id("info-button").click()
    help_panel = page.page.locator(".node-help-content")
    help_panel.wait_for(state="visible")
    text = (ROOT / "web" / "docs" / node / f"{language}.md").read_text(encoding="utf-8")
    headings = re.findall("^## (.+)$", text, re.MULTILINE)
    page.page.get_by_text(headings[-1]).first.wait_for(state="attached")
    shown = help_panel.inner_text()
    assert [heading for heading in headings if heading not in shown] == [] and text.splitlines()[0] in shown
    assert page.errors == []


SET = """([name, value]) => {
    const node = app.graph.nodes.find(n => n.type === "StyleIDSampler");
    node.widgets.find(w => w.name === name).setValue(value, {e: new MouseEvent("pointerup"), node, canvas: app.canvas});
}"""


@pytest.mark.parametrize("language", ["en"], indirect=True)
def test_a_preset_fills_in_its_values_and_a_change_makes_it_custom(page, object_info):
    presets = object_info["StyleIDSampler"]["input"]["optional"]["preset"][1]["presets"]
    page.load("styleid_simple")

    def sampler():
        [inputs] = find(page.prompt(), "StyleIDSampler")
        return inputs

    for name, values in presets.items():
        page.page.evaluate(SET, ["preset", name])
        assert {key: sampler()[key] for key in values} == values and sampler()["preset"] == name
    page.page.evaluate(SET, ["steps", 20])
    assert sampler()["preset"] == name, "not one of its values"
    page.page.evaluate(SET, ["gamma", 0.55])
    assert sampler()["preset"] == "custom" and sampler()["gamma"] == 0.55
    assert sampler()["blocks"] == presets[name]["blocks"]
    assert page.errors == []


OLDER = {  # the values of nodes as graphs of 0.1.0 have them
    "StyleIDSampler": [50, 0.75, 1.5, 1, "6-11", "official", 7, 1, "both", "auto", "auto", 0, 1],
    "InjectStyleKV": [0.75, 1.5, "both", 0, 1]}


@pytest.mark.parametrize(("example", "node"), [("styleid_simple", "StyleIDSampler"),
                                               ("styleid_nodes", "InjectStyleKV")])
def test_a_graph_of_an_older_version_is_told(page, language, node, example):
    """The page would put its values into other widgets, without a word."""
    workflow = json.loads((ROOT / "example_workflows" / f"{example}.json").read_text(encoding="utf-8"))
    page.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    sentence = "此工作流由其他版本制作" if language == "zh" else "this graph was made with another version"
    told = page.page.get_by_text(sentence)
    assert told.count() == 0, "of this version"
    for each in workflow["nodes"]:
        if each["type"] == node:
            each["widgets_values"] = OLDER[node]
    page.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    told.first.wait_for(state="visible")
    page.page.evaluate("app.extensionManager.toast.removeAll()")
    told.first.wait_for(state="detached")
    assert page.errors == []
