"""ComfyUI's own web page in a Chromium, by Playwright."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from .host import HostError

READY = "() => window.graph && window.app?.extensionManager?.spinner === false"


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium() -> Iterator:
    """Playwright's Browser; HostError where there is none to run, ImportError without Playwright."""
    # Here, because it is an extra, and the tests are skipped without it.
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    program = find_chromium()
    if program is None:
        raise HostError("This needs a Chromium or Chrome on the PATH.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def change_settings(url: str, settings: dict):
    """Of the server's one user."""
    request = urllib.request.Request(f"{url}/api/settings", json.dumps(settings).encode(),
                                     {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()


def open_page(page, url: str):
    """Until its graph can be worked on."""
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_function(READY)
