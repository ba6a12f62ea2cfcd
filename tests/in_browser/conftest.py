"""ComfyUI's own web page in a Chromium, on the server that tests/over_http use."""

import json
import re

import pytest

from tools.browser import change_settings, chromium, find_chromium, open_page
from tools.host import ROOT

SETTINGS = {  # as of a user who has seen the tutorial, and nothing that changes by itself
    "Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False, "Comfy.Validation.Workflows": True,
    "Comfy.VersionCompatibility.DisableWarnings": True, "Comfy.Window.UnloadConfirmation": False,
            "Comfy.RightSidePanel.IsOpen": False,
}
FRONTENDS_OWN = re.compile(r"user\.css|userdata|favicon|graph accessed before initialization|GPU stall|WebGL|"
                           r"deprecated|Autofocus|missingModel")


class Page:
    """The web page in one language; `errors` holds what it printed to the console as such."""

    def __init__(self, page, url: str):
        self.page, self.errors = page, []
        page.on("console", lambda message: message.type == "error" and self.note(f"{message.text} {message.location}"))
        page.on("pageerror", lambda error: self.note(str(error)))
        open_page(page, url)

    def note(self, text: str):
        if not FRONTENDS_OWN.search(text):
            self.errors.append(text)

    def load(self, name: str, folder: str = "example_workflows"):
        """In place of what is there, and with no errors yet."""
        self.errors.clear()
        workflow = json.loads((ROOT / folder / f"{name}.json").read_text(encoding="utf-8"))
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self.page.wait_for_timeout(300)

    def prompt(self) -> dict:
        """What Run would queue."""
        return json.loads(self.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))

    def nodes(self, properties: str) -> list:
        """Of each node of the graph a JavaScript expression of `n`."""
        return self.page.evaluate(f"window.graph.nodes.map(n => {properties})")


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright.sync_api")
    if find_chromium() is None:
        pytest.skip("needs a Chromium or Chrome on the PATH")
    with chromium() as running:
        yield running


@pytest.fixture(scope="module", params=["en", "zh"])
def language(request):
    return request.param


@pytest.fixture(scope="module")
def page(server, browser, language):
    change_settings(server.url, SETTINGS | {"Comfy.Locale": language})
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(120_000)
    yield Page(context.new_page(), server.url)
    context.close()
