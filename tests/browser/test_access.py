"""Every view in light and dark: axe finds nothing, and nothing is wider than a phone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.scenes import address, stubborn, writing
from tests.support.api import Api
from tests.support.node import ROOT, installed, or_skipped

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PHONE = {"width": 360, "height": 740}
View = Callable[[Page], None]


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's source."""
    with or_skipped("axe-core"):
        return (installed(ROOT / "tests/axe", "axe", "dev") / "axe-core/axe.min.js").read_text("utf-8")


def violations(page: Page, run_only: list[str]) -> list[tuple[str, str, str]]:
    """What axe finds: rule, element, what to mend."""
    found: dict[str, Any] = page.evaluate("(only) => axe.run(document, { runOnly: only })", run_only)
    return [
        (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found["violations"]
    ]


def check(page: Page, axe: str, what: str) -> None:
    """No violation in light, none of colour in dark, and nothing scrolls sideways on a phone."""
    page.evaluate(f"() => {{ {axe} }}")
    page.emulate_media(color_scheme="light")
    assert violations(page, RULES) == [], what
    page.emulate_media(color_scheme="dark")
    assert violations(page, ["color-contrast"]) == [], f"{what}, dark"
    before = page.viewport_size
    page.set_viewport_size(PHONE)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"], what
    page.set_viewport_size(before)


def test_lists_and_the_editor(open_page: Open, api: Api, axe: str) -> None:
    """Guards readers who can't see the page, see it badly, or hold it in one hand."""
    page = open_page("/", bypass_csp=True)
    expect(page.get_by_role("heading", name="No workflows yet")).to_be_visible()
    check(page, axe, "empty list")
    workflow = writing(api, tokens=3, description="What it is for")
    workflow.run()
    page.reload()
    expect(page.get_by_role("link", name="Long text")).to_be_visible()
    check(page, axe, "list")
    page.get_by_role("link", name="Long text").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    check(page, axe, "workflow")
    page.get_by_role("button", name="Delete…").click()
    check(page, axe, "delete")
    page.get_by_role("button", name="Keep it").click()
    page.goto(page.url.replace(address(workflow), "/app/user/workflows/new"))
    page.get_by_role("button", name="Researcher").click()
    for summary in page.locator("summary").all():
        summary.click()
    check(page, axe, "editor")
    page.get_by_role("tab", name="JSON").click()
    check(page, axe, "JSON")


def test_a_run_and_what_is_asked_of_it(open_page: Open, api: Api, axe: str) -> None:
    """Guards the same for the run page: live, being asked to stop, stopping, cancelled, each tab, the comparison."""
    workflow = stubborn(api, 12)
    run = workflow.start()
    page = open_page(address(workflow, run), bypass_csp=True)
    page.locator(".node", has_text="sleep").first.click()
    check(page, axe, "run")
    page.get_by_role("button", name="Stop the run").first.click()
    check(page, axe, "question")
    page.get_by_role("button", name="Stop run").click()
    expect(page.locator(".stopping")).to_be_visible()
    check(page, axe, "stopping")
    run.cancel(force=True)
    expect(page.locator(".notice")).to_contain_text("Cancelled by")
    check(page, axe, "cancelled")
    for tab in ("Events", "Artifacts", "Receipt", "Input and output"):
        page.get_by_role("tab", name=tab).click()
        check(page, axe, tab)


def test_comparison_and_what_could_not_be_shown(
    open_page: Open, api: Api, axe: str, expected_errors: list[str]
) -> None:
    """Guards the same for the comparison, and for who is signed out."""
    expected_errors.append("401")
    workflow = writing(api)
    run = workflow.start()
    run.wait("running")
    run.cancel()
    run.wait()
    again = api.ok("POST", f"{run.path}/resume", 202, json={})
    page = open_page(f"{address(workflow)}/runs/{again['id']}/compare", bypass_csp=True)
    expect(page.get_by_role("heading", name="Part by part")).to_be_visible()
    check(page, axe, "comparison")
    signed_out = open_page("/", user="", bypass_csp=True)
    expect(signed_out.get_by_role("heading", name="You are signed out")).to_be_visible()
    check(signed_out, axe, "signed out")
    operators = open_page("/app/operators", user="op;Op;roles=Truestop.Admin", bypass_csp=True)
    expect(operators.locator("tbody tr").first).to_be_visible()
    check(operators, axe, "operators")
    api.ok("POST", f"{workflow.path}/cancel", (200, 202), json={})
