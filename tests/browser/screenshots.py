"""`make screenshots`: pictures of every view, at a desktop's and a phone's width, for the documentation.

Usage: python -m tests.browser.screenshots FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, expect

from tests.browser.scenes import address, stubborn
from tests.support.api import Api, Workflow
from tests.support.browser import launched, signed_in
from tests.support.host import ROOT, Host

USER = "ana;Ana Ruiz"
OPERATOR = "olga;Olga Berg;roles=Truestop.Admin"
SIZES = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
DOCUMENTS = ROOT / "devhost/demo_data"
SCHEDULE = {"kind": "schedule", "cron": "0 7 * * 1-5", "time_zone": "Europe/Paris"}


def review(api: Api, tokens: int) -> Workflow:
    """The demo's review, which takes as long as `tokens` say."""
    for path in DOCUMENTS.iterdir():
        api.upload(f"reports/{path.name}", path.read_bytes())
    read = "[[tokens=30 delay=10ms]] Summarise {{document.name}}:\n{{document.text}}"
    write = f"[[tokens={tokens} delay=20ms]] Write a review of: {{{{steps.read.output}}}}"
    return api.workflow(
        {
            "kind": "analyze_documents",
            "name": "read",
            "documents": {"prefix": "reports/"},
            "parallel": 2,
            "prompt": read,
        },
        {"kind": "model", "name": "write", "prompt": write},
        {"kind": "write_artifact", "name": "save", "path": "review.md", "content": "{{steps.write.output}}"},
        {"kind": "notify", "name": "tell", "subject": "The review is ready", "message": "See review.md"},
        name="Quarterly review",
        description="Reads the reports, asks the model about each, writes a review.",
    )


class Camera:
    """Takes a view at each size."""

    def __init__(self, browser: Any, base_url: str, folder: Path) -> None:
        self.browser, self.base_url, self.folder = browser, base_url, folder

    def take(
        self,
        name: str,
        path: str,
        ready: Callable[[Page], Any],
        user: str = USER,
        scheme: str = "light",
        sizes: tuple[str, ...] = tuple(SIZES),
    ) -> None:
        """Save pictures of the view at `path` once it is `ready`."""
        for size in sizes:
            context = signed_in(self.browser, self.base_url, user, viewport=SIZES[size], color_scheme=scheme)
            page = context.new_page()
            page.goto(self.base_url + path)
            ready(page)
            page.screenshot(path=self.folder / f"{name}-{size}.png")
            context.close()


def seen(selector: str) -> Callable[[Page], None]:
    """Ready when that can be seen."""
    return lambda page: expect(page.locator(selector).first).to_be_visible()


def asking(page: Page) -> None:
    """Ready when the page asks whether to stop."""
    page.get_by_role("button", name="Stop the run").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def editing(page: Page) -> None:
    """Ready when a template is in the form."""
    page.get_by_role("button", name="Researcher").click()
    expect(page.locator(".save-bar")).to_contain_text("All is well.")


def writing(page: Page) -> None:
    """Ready when the model has written some text."""
    expect(page.locator(".output").first).to_contain_text("sources", timeout=20_000)
    page.wait_for_timeout(2500)


def pictures(camera: Camera, api: Api) -> None:
    """Every view."""
    camera.take("empty", "/", seen(".message"))
    camera.take("signed-out", "/", seen(".message"), user="")
    workflow = review(api, 900)
    fetch = {"kind": "fetch_urls", "name": "pages", "urls": ["http://127.0.0.1:1/"], "retries": {"max": 0}}
    api.workflow(fetch, name="Web watch", trigger=SCHEDULE).run()
    api.workflow({"kind": "tool", "name": "say", "tool": "echo", "arguments": {"value": 1}}, name="Inbox digest").run()
    hung = stubborn(api, 25, name="Nightly import")
    run = workflow.start()
    hanging = hung.start()
    camera.take("run", address(workflow, run), writing)
    camera.take("run-dark", address(workflow, run), writing, scheme="dark", sizes=("desktop",))
    camera.take("workflows", "/", seen(".card .badge-running"))
    camera.take("stop", address(workflow, run), asking)
    camera.take("operators", "/app/operators", seen("tbody tr"), user=OPERATOR)
    hanging.wait("running")
    hanging.cancel(reason="wrong folder")
    camera.take("stopping", address(hung, hanging), seen(".stopping"))
    run.cancel(reason="the figures are from last quarter")
    run.wait("cancelled")
    camera.take("cancelled", address(workflow, run) + "?node=s02.m", seen(".notice"), sizes=("desktop",))
    camera.take("cancelled", address(workflow, run), seen(".notice"), sizes=("phone",))
    camera.take("receipt", address(workflow, run) + "?tab=receipt", seen(".receipt"))
    again = api.ok("POST", f"{run.path}/resume", 202, json={})["id"]
    camera.take("history", address(workflow), seen("tbody tr"))
    camera.take("compare", f"{address(workflow)}/runs/{again}/compare", seen("table"))
    camera.take("events", address(workflow, run) + "?tab=events", seen(".events li"), sizes=("desktop",))
    camera.take("editor", "/app/user/workflows/new", editing)
    api.ok("POST", f"{workflow.path}/cancel", (200, 202), json={})


def main(folder: Path) -> None:
    """Take them, with a host of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        host = Host(Path(data) / "data").start()
        try:
            with launched() as browser, httpx.Client(base_url=host.base_url, timeout=30, trust_env=False) as client:
                pictures(Camera(browser, host.base_url, folder), Api(client, USER))
        finally:
            host.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
