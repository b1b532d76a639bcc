"""History, resume, comparison; and the states that every view has beside its own."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open
from tests.browser.scenes import address, writing
from tests.support.api import Api


def test_history_is_filtered_and_the_filter_is_in_the_address(open_page: Open, api: Api) -> None:
    """Guards the filters: by status over the API, kept over a reload."""
    workflow = writing(api, tokens=2)
    workflow.run()
    cancelled = workflow.start()
    cancelled.cancel()
    cancelled.wait()
    page = open_page(address(workflow))
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_label("Status").select_option("cancelled")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("Cancelled")
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_label("Status").select_option("failed")
    expect(page.get_by_text("No run is like that.")).to_be_visible()


def test_a_cancelled_run_is_resumed_and_compared(open_page: Open, api: Api) -> None:
    """Guards the way back: what had finished is taken over, and the comparison says so."""
    workflow = api.workflow(
        {"kind": "tool", "name": "first", "tool": "echo", "arguments": {"value": "kept"}},
        {"kind": "tool", "name": "second", "tool": "sleep", "arguments": {"seconds": 2}},
        name="Two parts",
    )
    run = workflow.start()
    page = open_page(address(workflow, run))
    expect(page.locator(".node", has_text="second").locator(".status-running")).to_be_visible()
    run.cancel(reason="to resume")
    page.get_by_role("tab", name="Receipt").click()
    expect(page.locator("#panel")).to_contain_text("to resume")
    expect(page.locator("#panel")).to_contain_text("Stopped; what had arrived is kept")
    page.get_by_role("button", name="Resume…").click()
    page.get_by_role("button", name="Resume", exact=True).click()
    page.wait_for_url(lambda url: run.id not in url)
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_role("row", name=re.compile("first"))).to_contain_text("Taken over, not done again")
    expect(page.get_by_role("row", name=re.compile("second"))).to_contain_text("Done again")


def test_the_history_follows_new_runs(open_page: Open, api: Api) -> None:
    """Guards the live list: a run that starts elsewhere appears, and its end too."""
    workflow = writing(api, tokens=30)
    page = open_page(address(workflow))
    expect(page.get_by_text("It has not run yet.")).to_be_visible()
    workflow.start()
    expect(page.get_by_role("link", name="Watch this run")).to_be_visible()
    expect(page.locator("tbody .badge")).to_have_text("Completed")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/app/user/workflows/01m7z2a599fav5fr3yqawmqz75", "There is nothing here"),
        ("/app/user/workflows/01m7z2a599fav5fr3yqawmqz75/runs/none", "There is nothing here"),
        ("/app/user/workflows/01m7z2a599fav5fr3yqawmqz75/edit", "There is nothing here"),
        ("/app/groups/01m7z2a599fav5fr3yqawmqz75/workflows", "There is nothing here"),
        ("/app/nowhere", "There is no such page"),
    ],
)
def test_what_is_not_there_is_said(open_page: Open, path: str, says: str, expected_errors: list[str]) -> None:
    """Guards dead links: a clear sentence and a way on, in every view."""
    expected_errors.append("404")
    page = open_page(path)
    expect(page.get_by_role("heading", name=says)).to_be_visible()
    page.get_by_role("link", name="To the workflows").click()
    expect(page.get_by_role("heading", name="No workflows yet")).to_be_visible()


def test_who_is_signed_out_is_led_to_sign_in_and_back(open_page: Open, api: Api, expected_errors: list[str]) -> None:
    """Guards the first visit: nothing of anybody is shown, and signing in leads to where one was."""
    expected_errors.append("401")
    workflow = writing(api)
    page = open_page(address(workflow), user="")
    expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="Sign in").click()
    page.get_by_label("User id").fill(api.user)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Long text")).to_be_visible()


def test_offline_is_said_and_trying_again_works(open_page: Open, api: Api, expected_errors: list[str]) -> None:
    """Guards a lost network: a sentence instead of a blank page, and what is there is kept."""
    expected_errors.append("Failed to load resource")
    writing(api)
    page = open_page("/")
    expect(page.get_by_role("link", name="Long text")).to_be_visible()
    page.route("**/api/**", lambda route: route.abort())
    page.get_by_role("link", name="Long text").click()
    expect(page.get_by_role("heading", name="You are offline")).to_be_visible()
    page.unroute("**/api/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Long text")).to_be_visible()


def test_a_member_who_may_not_write_is_told_so(open_page: Open, api: Api, expected_errors: list[str]) -> None:
    """Guards rights: the page offers nothing that is refused, and says which role it takes when it is tried anyway."""
    expected_errors.append("403")
    group = api.ok("POST", "/api/groups", 201, json={"name": "Readers"})["id"]
    bob = f"bob-{api.user}"
    api.ok("PUT", f"/api/groups/{group}/members/{bob}", (200, 201), json={"role": "User", "name": "Bob"})
    page = open_page("/", user=bob)
    page.get_by_label("Whose workflows").select_option("Readers")
    expect(page.get_by_role("heading", name="Readers")).to_be_visible()
    expect(page.get_by_role("link", name="New workflow")).to_have_count(0)
    page.goto(page.url + "/new")
    page.get_by_label("Name", exact=True).first.fill("Mine")
    expect(page.locator(".save-bar")).to_contain_text("this takes the role Owner or Admin")
