"""The operators' page: everyone's runs, and stopping many with a reason."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.conftest import Open
from tests.browser.scenes import address, writing
from tests.support.api import Api

OPERATORS = "/app/operators"


def test_an_operator_stops_the_chosen_runs_with_a_reason(open_page: Open, api: Api) -> None:
    """Guards the way to stop a runaway: filter, choose, give a reason; the runs' people see who it was."""
    runs = [writing(api).start() for _ in range(3)]
    page = open_page("/", user=f"op-{api.user};Olga Operator;roles=Truestop.Admin")
    page.get_by_role("link", name="Operators").click()
    page.get_by_label("Scope").fill(f"user:{api.user}")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.get_by_role("button", name="Stop the chosen…")).to_be_disabled()
    for run in runs[:2]:
        page.get_by_label(f"Choose run {run.id}").check()
    page.get_by_role("button", name="Stop 2 runs…").click()
    stop = page.get_by_role("button", name="Stop them")
    stop.click()
    assert runs[0].get()["status"] in ("queued", "running")  # without a reason the form isn't sent
    page.get_by_label("Reason").fill("the model's bill")
    stop.click()
    expect(page.locator("tbody tr")).to_have_count(1)
    for run in runs[:2]:
        cancel = run.wait("cancelled")["cancel"]
        assert (cancel["source"], cancel["reason"]) == ("admin", "the model's bill")
    assert runs[2].get()["status"] == "running"
    owner = open_page(address(runs[0].workflow, runs[0]))
    expect(owner.locator(".notice")).to_contain_text("Cancelled by Olga Operator")
    page.get_by_role("button", name="Stop all that match…").click()
    page.get_by_label("Reason").fill("and the last one")
    stop.click()
    expect(page.get_by_text("Nothing runs.")).to_be_visible()
    assert runs[2].wait()["status"] == "cancelled"


def test_who_is_no_operator_is_told_so(open_page: Open, expected_errors: list[str]) -> None:
    """Guards the forbidden state: no link, and a sentence for who types the address."""
    expected_errors.append("403")
    page = open_page(OPERATORS)
    expect(page.get_by_role("heading", name="You may not see this")).to_be_visible()
    expect(page.get_by_role("link", name="Operators")).to_have_count(0)
