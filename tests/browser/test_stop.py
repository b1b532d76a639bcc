"""Stop, with real clicks: asked once, believed only when it is true."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.scenes import address, stubborn, writing
from tests.support.api import Api
from tests.support.waiting import eventually_sync


def dialog(page: Page) -> Any:
    """The open dialog."""
    return page.get_by_role("dialog")


def ask(page: Page, of: str = "the run") -> None:
    """Press Stop, which asks."""
    page.get_by_role("button", name=f"Stop {of}").first.click()


def test_a_run_is_started_watched_and_stopped(open_page: Open, api: Api) -> None:
    """Guards the way that a person goes: Run, text that streams, Stop, a reason, Cancelled by whom and when."""
    writing(api)
    page = open_page("/")
    page.get_by_role("button", name="Run Long text").click()
    output = page.get_by_label("Output", exact=True)
    expect(output).to_be_visible()
    length = len(output.inner_text())
    eventually_sync(lambda: len(output.inner_text()) > length + 20, 10, "the text grows")
    ask(page)
    expect(dialog(page)).to_contain_text("Stop this run?")
    expect(page.get_by_role("button", name="Keep running")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog(page)).to_have_count(0)
    ask(page)
    page.get_by_label("Reason").fill("seen enough")
    page.get_by_role("button", name="Stop run").click()
    expect(page.locator(".notice")).to_contain_text(f"Cancelled by {api.user} at ")
    expect(page.locator(".notice")).to_contain_text("“seen enough”")
    expect(page.get_by_role("button", name="Stop the run")).to_have_count(0)
    run = api.all(f"/api/user/workflows/{api.all('/api/user/workflows')[0]['id']}/runs")[0]
    assert (run["status"], run["cancel"]["source"], run["cancel"]["reason"]) == ("cancelled", "page", "seen enough")


def test_cancelled_is_neutral_and_never_red(open_page: Open, api: Api) -> None:
    """Guards the colour: somebody wanted it, so it is no failure."""
    workflow = writing(api)
    run = workflow.start()
    run.wait("running")
    run.cancel()
    run.wait("cancelled")
    page = open_page(address(workflow, run))
    expect(page.locator(".status-cancelled").first).to_be_visible()
    colours = "(all) => all.map((el) => getComputedStyle(el).color)"
    cancelled = page.locator(".status-cancelled").evaluate_all(colours)
    neutral = page.evaluate(
        "() => { const el = document.body.appendChild(document.createElement('i')); "
        "el.style.color = 'var(--neutral)'; return getComputedStyle(el).color; }"
    )
    assert cancelled
    assert set(cancelled) == {neutral}


def test_stopping_is_not_cancelled_and_cannot_be_pressed_twice(open_page: Open, api: Api) -> None:
    """Guards the truth while a tool won't stop: "Stopping…" with what is in flight, one request, then Cancelled."""
    workflow = stubborn(api, 3)
    run = workflow.start()
    page = open_page(address(workflow, run))
    expect(page.locator(".node", has_text="sleep").first).to_be_visible()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/cancel") else None)
    ask(page)
    page.get_by_role("button", name="Stop run").dblclick()
    expect(page.locator(".stopping")).to_contain_text("Stopping…")
    expect(page.locator(".notice")).to_contain_text("1 operation still in flight")
    expect(page.locator(".view-head .badge")).to_have_text("Stopping…")
    expect(page.get_by_role("button", name="Stop the run")).to_have_count(0)
    expect(page.locator(".notice")).to_contain_text("Cancelled by ")
    expect(page.locator(".stopping")).to_have_count(0)
    assert len(sent) == 1


def test_force_is_offered_after_the_grace_with_a_plain_warning(open_page: Open, api: Api) -> None:
    """Guards the last resort. The service ends most runs itself when the grace is over, so the page is told that it is."""
    workflow = stubborn(api, 20, grace_seconds=20)
    run = workflow.start()
    page = open_page(address(workflow, run))
    expect(page.locator(".node", has_text="sleep").first).to_be_visible()
    page.route("**/stream?*", shortened)
    page.route("**/cancel", shortened)
    ask(page)
    page.get_by_role("button", name="Stop run").click()
    page.get_by_role("button", name="Force…").click()
    expect(dialog(page)).to_contain_text("what still works may go on for a while outside")
    expect(page.get_by_role("button", name="Keep waiting")).to_be_focused()
    page.get_by_role("button", name="Force it to end").click()
    expect(page.locator(".notice")).to_contain_text("It was ended by force")
    assert run.receipt()["forced"] is True
    page.unroute_all(behavior="ignoreErrors")


def shortened(route: Any) -> None:
    """Let a request through, and tell the page that the grace is none."""
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace('"grace_seconds":20.0', '"grace_seconds":0.0'))


def test_a_colleague_who_cancels_first_is_named(open_page: Open, api: Api) -> None:
    """Guards two people and two tabs: an open dialog learns that there is nothing left to ask."""
    group = api.ok("POST", "/api/groups", 201, json={"name": "Readers"})["id"]
    bob = Api(api.client, f"bob-{api.user}")
    api.ok("PUT", f"/api/groups/{group}/members/{bob.user}", (200, 201), json={"role": "User", "name": "Bob"})
    made = api.ok(
        "POST",
        f"/api/group/workflows?group_id={group}",
        201,
        json={"name": "Shared", "steps": [{"kind": "model", "name": "write", "prompt": "[[tokens=3000]] Write"}]},
    )
    run = api.ok("POST", f"/api/group/workflows/{made['id']}/run?group_id={group}", 202, json={})
    path = f"/app/groups/{group}/workflows/{made['id']}/runs/{run['id']}"
    asking, watching = open_page(path), open_page(path)
    ask(asking)
    bob.ok("POST", f"/api/group/workflows/{made['id']}/runs/{run['id']}/cancel?group_id={group}", (200, 202), json={})
    expect(dialog(asking)).to_contain_text(f"{bob.user} has asked for this already")
    expect(asking.get_by_role("button", name="Stop run")).to_have_count(0)
    asking.get_by_role("button", name="Close", exact=True).click()
    for page in (asking, watching):
        expect(page.locator(".notice")).to_contain_text(f"Cancelled by {bob.user}")


def test_stopping_one_branch_says_what_goes_on(open_page: Open, api: Api) -> None:
    """Guards the narrow stop: one item ends, the other works on, and the page says so."""
    for name in ("a", "b"):
        api.upload(f"narrow/{name}.txt", b"text")
    workflow = api.workflow(
        {
            "kind": "analyze_documents",
            "name": "read",
            "documents": {"prefix": "narrow/"},
            "prompt": "[[tokens=2000]] {{document.text}}",
        },
        name="Two",
    )
    run = workflow.start()
    page = open_page(address(workflow, run))
    page.locator(".node", has_text="narrow/a.txt").click()
    page.get_by_role("button", name="Stop this part").click()
    expect(dialog(page)).to_contain_text("The rest of the run goes on")
    page.get_by_role("button", name="Stop this part").last.click()
    expect(page.locator("#told")).to_contain_text("The run goes on")
    expect(page.locator(".node", has_text="narrow/a.txt").first).to_have_attribute("data-status", "cancelled")
    assert run.get()["status"] == "running"
    run.cancel()


def test_the_workflow_row_and_the_history_row_stop_their_run(open_page: Open, api: Api) -> None:
    """Guards Stop where the run isn't open: in the list of workflows and in the history."""
    workflow = writing(api)
    for path, badge in (("/", ".card .badge-cancelled"), (address(workflow), "tbody .badge-cancelled")):
        run = workflow.start()
        page = open_page(path)
        ask(page, "Long text" if path == "/" else "this run")
        page.get_by_role("button", name="Stop run").click()
        expect(page.locator(badge).first).to_be_visible()
        assert run.wait()["status"] == "cancelled"
        page.context.close()


def test_escape_keeps_it_running_and_gives_the_focus_back(open_page: Open, api: Api) -> None:
    """Guards the keyboard: the dialog closes, and one is where one was."""
    workflow = writing(api)
    run = workflow.start()
    page = open_page(address(workflow, run))
    page.get_by_role("button", name="Stop the run").focus()
    page.keyboard.press("Enter")
    expect(dialog(page)).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog(page)).to_have_count(0)
    expect(page.get_by_role("button", name="Stop the run")).to_be_focused()
    run.cancel()


def test_a_cancel_that_could_not_be_sent_is_not_taken_for_one(
    open_page: Open, api: Api, expected_errors: list[str]
) -> None:
    """Guards the worst lie: without an answer the page says that nothing is certain, and the next try works."""
    expected_errors.append("Failed to load resource")
    workflow = writing(api)
    run = workflow.start()
    page = open_page(address(workflow, run))
    ask(page)
    page.route("**/cancel", lambda route: route.abort())
    page.get_by_role("button", name="Stop run").click()
    expect(dialog(page).get_by_role("alert")).to_contain_text("nothing is certain")
    assert run.get()["status"] in ("queued", "running")
    page.unroute("**/cancel")
    page.get_by_role("button", name="Stop run").click()
    expect(page.locator(".notice")).to_contain_text("Cancelled by ")
    assert run.wait()["status"] == "cancelled"
