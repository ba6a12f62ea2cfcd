"""Help pages and Chinese, held to what ComfyUI tells its frontend about the nodes."""

import json
import re
from pathlib import Path

import pytest

import nodes
from tools.pack import NODES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
LOCALES = {path.relative_to(ROOT / "locales").as_posix(): json.loads(path.read_text(encoding="utf-8"))
           for path in (ROOT / "locales").glob("*/*")}
CHINESE = LOCALES["zh/nodeDefs.json"]
LANGUAGES = ["en", "zh"]
REQUIRED = {"en": "required", "zh": "必需"}
OPTIONAL = {"en": "optional", "zh": "可选"}
EMPTY = {"en": "empty", "zh": "空"}
OFF = {"en": "off", "zh": "关"}
DEFAULT_AND_RANGE = {"en": "{:g} ({:g} to {:g})", "zh": "{:g}（{:g} 到 {:g}）"}
SECTIONS = ["introduction", "inputs", "outputs", "use", "errors", "source"]  # of every page


@pytest.fixture(params=NODES)
def info(request, pack):
    """What /object_info says about a node."""
    return nodes.NODE_CLASS_MAPPINGS[request.param].GET_NODE_INFO_V1()


@pytest.fixture(params=LANGUAGES)
def language(request):
    return request.param


def inputs(info: dict) -> dict[str, dict]:
    """{id: options} of all inputs, the required ones first; `is_required` among the options."""
    return {name: options | {"is_required": kind == "required"}
            for kind in ("required", "optional") for name, (_, options) in info["input"].get(kind, {}).items()}


def sections(node: str, language: str) -> dict[str, str]:
    parts = re.split(r"^## .+$", (DOCS / node / f"{language}.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(parts) == len(SECTIONS)
    return dict(zip(SECTIONS, parts))


def rows(section: str) -> list[list[str]]:
    """The cells of its table, without the two rows of the head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()
            if line.startswith("|")][2:]


def label(id: str, translation: dict, language: str) -> str:
    """How a page names an input or output: as the node shows it, and as workflows know it."""
    shown = translation.get("name", id) if language == "zh" else id
    return f"`{id}`" if shown == id else f"{shown} `{id}`"


def default(options: dict, language: str) -> str:
    if "min" in options:
        return DEFAULT_AND_RANGE[language].format(options["default"], options["min"], options["max"])
    if options.get("default") is False:
        return OFF[language]
    if "default" in options:
        return f"`{options['default']}`" if options["default"] else EMPTY[language]
    return (REQUIRED if options["is_required"] else OPTIONAL)[language]


def strings(value) -> list[str]:
    return [text for item in value.values() for text in strings(item)] if isinstance(value, dict) else [value]


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


def test_there_is_nothing_but_these_pages():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.*")}
    assert pages == {f"{node}/{language}.md" for node in NODES for language in LANGUAGES}
    assert CHINESE.keys() == set(NODES)


def test_pages_name_inputs_and_defaults(info, language):
    translations = CHINESE[info["name"]]["inputs"]
    expected = [[label(name, translations[name], language), default(options, language)]
                for name, options in inputs(info).items()]
    assert [cells[:2] for cells in rows(sections(info["name"], language)["inputs"])] == expected


def test_pages_name_outputs(info, language):
    translations = CHINESE[info["name"]]["outputs"]
    expected = [label(name, translations[str(i)], language) for i, name in enumerate(info["output_name"])]
    assert [cells[0] for cells in rows(sections(info["name"], language)["outputs"])] == expected


def test_pages_speak_of_options_that_exist(info, language):
    for (name, options), (*_, text) in zip(inputs(info).items(), rows(sections(info["name"], language)["inputs"])):
        if "options" in options:
            assert set(re.findall(r"`(.+?)`", text)) <= set(options["options"]) | inputs(info).keys(), name


def test_pages_quote_errors_that_exist(info, language):
    code = "".join(path.read_text(encoding="utf-8") for folder in ("nodes", "styleid_core")
                   for path in (ROOT / folder).rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    quotes = [cells[0] for cells in rows(sections(info["name"], language)["errors"])]
    assert quotes == [cells[0] for cells in rows(sections(info["name"], "en")["errors"])]
    assert [part for quote in quotes for part in quote.split(" ... ") if part not in code] == []


@pytest.mark.parametrize("denial", [r"\*([^*]+)\* has no setting", r"\*([^*]+)\* ?没有单独的设置"])
def test_pages_deny_no_setting_of_another_node(denial):
    assert [(path.name, found) for path in DOCS.rglob("*.md")
            for found in re.findall(denial, path.read_text(encoding="utf-8"))] == []


def test_all_is_translated_and_nothing_else(info):
    translation = CHINESE[info["name"]]
    assert translation.keys() == {"display_name", "description", "inputs", "outputs"}
    translated = {name: each.keys() for name, each in translation["inputs"].items()}
    assert translated == dict.fromkeys(inputs(info), {"name", "tooltip"})
    # An output that has only its type for a name is named by the frontend.
    assert {i: each.keys() for i, each in translation["outputs"].items()} == {
        str(i): {"tooltip"} if name == type_ else {"name", "tooltip"}
        for i, (name, type_) in enumerate(zip(info["output_name"], info["output"]))}


def test_translations_keep_up_with_the_schema(info):
    """In Chinese, and with the numbers of the English."""
    translation = CHINESE[info["name"]]
    texts = [(info["description"], translation["description"])]
    texts += [(options["tooltip"], translation["inputs"][name]["tooltip"]) for name, options in inputs(info).items()]
    texts += [(tooltip, translation["outputs"][str(i)]["tooltip"]) for i, tooltip in enumerate(info["output_tooltips"])]
    for english, chinese in texts:
        assert re.search("[\u4e00-\u9fff]", chinese) and numbers(chinese) == numbers(english), chinese


def test_the_category_has_a_name(info):
    assert all(LOCALES[f"{name}/main.json"]["nodeCategories"].keys() == {info["category"]} for name in LANGUAGES)


@pytest.mark.parametrize("name", LOCALES)
def test_the_frontend_takes_every_string_as_it_is(name):
    """To vue-i18n these begin placeholders, plurals and links."""
    assert [text for text in strings(LOCALES[name]) if set(text) & set("|{}@")] == []
