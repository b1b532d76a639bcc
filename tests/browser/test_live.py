"""A run page follows its run: over reloads and lost networks, with thousands of parts, from the keyboard."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.scenes import address, writing
from tests.support.api import Api
from tests.support.host import Host
from tests.support.waiting import eventually_sync


def shown_events(page: Page) -> list[str]:
    """The ids of the events that the page shows, oldest first."""
    ids: list[str] = page.locator(".events li").evaluate_all("(all) => all.map((el) => el.dataset.key)")
    return ids[::-1]


def test_a_reload_and_a_lost_network_lose_and_double_nothing(
    open_page: Open, api: Api, expected_errors: list[str]
) -> None:
    """Guards the feed: after both, the page shows exactly the events and the text that the service has."""
    expected_errors.append("ERR_INTERNET_DISCONNECTED")
    workflow = writing(api, tokens=200)
    run = workflow.start()
    page = open_page(address(workflow, run))
    expect(page.get_by_label("Output", exact=True)).to_contain_text("the")
    page.reload()
    expect(page.locator(".node").first).to_be_visible()
    page.context.set_offline(True)
    expect(page.locator(".connection")).to_contain_text("Offline")
    run.wait("completed")
    with page.expect_response(lambda answer: "/stream?" in answer.url and answer.status == 204):
        page.context.set_offline(False)
    expect(page.locator(".view-head .badge")).to_have_text("Completed")
    expect(page.locator(".connection")).to_be_hidden()
    page.get_by_role("tab", name="Events").click()
    assert shown_events(page) == [event["id"] for event in run.events()]
    page.get_by_role("tab", name="Steps").click()
    page.locator(".node", has_text="model").first.click()
    said = page.get_by_label("Output", exact=True).text_content()
    assert said == run.executions()["s01.m"]["output_preview"]


def test_times_are_of_the_readers_zone_and_ids_can_be_copied(open_page: Open, api: Api) -> None:
    """Guards readers elsewhere: what the service says in UTC is shown in their own time; an id goes to the clipboard."""
    run = (workflow := writing(api, tokens=1)).run()
    options = {"timezone_id": "Asia/Kolkata", "permissions": ["clipboard-read", "clipboard-write"]}
    page = open_page(address(workflow, run), **options)
    shown = page.locator(".facts-line time")
    expect(shown).to_be_visible()
    started = datetime.fromisoformat(shown.get_attribute("datetime") or "")
    assert shown.inner_text() == started.astimezone(ZoneInfo("Asia/Kolkata")).strftime("%H:%M:%S")
    page.get_by_role("button", name=f"Copy run id {run.id}").click()
    expect(page.locator("#announcements")).to_have_text("Copied run id.")
    assert page.evaluate("() => navigator.clipboard.readText()") == run.id


def test_a_deep_link_shows_the_same_again(open_page: Open, api: Api) -> None:
    """Guards links that are sent to somebody: the tab and the row are in the address."""
    workflow = api.workflow({"kind": "tool", "name": "say", "tool": "echo", "arguments": {"value": "hello there"}})
    run = workflow.run()
    page = open_page(address(workflow, run) + "?node=s01.c")
    page.locator(".node").last.click()
    expect(page).to_have_url(re.compile(r"\?node=s01"))
    page.reload()
    expect(page.locator('.node[aria-selected="true"]')).to_have_count(1)
    expect(page.locator(".detail")).to_contain_text("hello there")
    page.get_by_role("tab", name="Receipt").click()
    page.reload()
    expect(page.get_by_role("tab", name="Receipt")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#panel")).to_contain_text("No cancel was asked for")


def test_artifacts_open_and_failures_are_told(open_page: Open, api: Api) -> None:
    """Guards what a run leaves: its files can be had, and what went wrong stands on top."""
    workflow = api.workflow(
        {"kind": "write_artifact", "name": "save", "path": "notes/a b.md", "content": "# Notes"},
        {"kind": "fetch_urls", "name": "get", "urls": ["http://127.0.0.1:1/"], "retries": {"max": 0}},
    )
    run = workflow.run()
    page = open_page(address(workflow, run))
    expect(page.locator(".notice.bad")).to_contain_text("It failed")
    page.get_by_role("tab", name="Artifacts").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="notes/a b.md").click()
    assert download.value.path().read_text() == "# Notes"


def test_the_tree_is_walked_from_the_keyboard(open_page: Open, api: Api) -> None:
    """Guards readers without a mouse: arrows move and fold, Enter shows the details."""
    for name in ("a", "b"):
        api.upload(f"keys/{name}.txt", b"text")
    workflow = api.workflow(
        {"kind": "analyze_documents", "name": "read", "documents": {"prefix": "keys/"}, "prompt": "[[tokens=3]] x"}
    )
    page = open_page(address(workflow, workflow.run()))
    tree = page.get_by_role("tree")
    tree.focus()
    active = tree.get_attribute("aria-activedescendant")
    assert active == "node-s01"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("treeitem", name="model, Model call, Completed")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".detail h2")).to_have_text("model")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("treeitem", name="model, Model call, Completed")).to_have_count(0)


MANY = """async () => {
  const at = document.querySelector('script[type=module]').src.replace(/main\\.js$/, '');
  const { RunStore } = await import(at + 'store.js');
  const { TreeView } = await import(at + 'tree.js');
  const store = new RunStore({ kind: 'user' }, 'w', 'r');
  const began = new Date().toISOString();
  store.applyRun({ id: 'r', status: 'running', created_at: began, started_at: began, ended_at: null, counts: {} });
  const one = (path, parent, depth, kind) => ({ id: `r:${path}`, path, parent, depth, kind, name: path,
    status: 'running', attempt: 1, started_at: began, ended_at: null, output_preview: '', error: null, side_effects: [] });
  const tree = new TreeView(store, () => {});
  document.querySelector('main').replaceChildren(tree.el);
  store.apply('execution', one('s01', null, 0, 'step'));
  for (let i = 0; i < 1000; i += 1) {
    const path = `s01.i${String(i).padStart(3, '0')}`;
    store.apply('execution', one(path, 's01', 1, 'item'));
    store.apply('execution', one(`${path}.m`, path, 2, 'model_call'));
  }
  let draws = 0, slowest = 0;
  const draw = tree.draw.bind(tree);
  tree.draw = () => {
    const from = performance.now();
    draw();
    draws += 1;
    slowest = Math.max(slowest, performance.now() - from);
  };
  tree.fold('s01', false);
  for (const row of [...store.nodes.values()]) if (row.kind === 'item') tree.folded.set(row.path, false);
  tree.shape = -1;
  store.listeners.add(() => tree.draw());
  tree.draw();
  draws = 0;
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  for (let turn = 0; turn < 10; turn += 1) {
    for (const [path, node] of store.nodes) store.apply('execution', { ...node, output_preview: `text ${turn} of ${path}` });
    scrollTo(0, turn * 5000);
    await frame();
  }
  await frame();
  return { rows: tree.rows.length, elements: tree.el.children.length, draws, slowest, height: tree.el.offsetHeight };
}"""


def test_two_thousand_parts_cost_what_is_in_sight(open_page: Open) -> None:
    """Guards big runs: 20,000 changes are drawn once a frame, and only the rows in sight exist. Prints the slowest."""
    page = open_page("/")
    expect(page.get_by_role("heading", name="Workflows").first).to_be_visible()
    found: dict[str, Any] = page.evaluate(MANY)
    print(f"slowest draw of 2001 rows: {found['slowest']:.1f} ms")
    assert found["rows"] == 2001
    assert found["height"] == 2001 * 36
    assert found["elements"] <= 40
    assert found["draws"] <= 12


def test_a_hidden_page_asks_for_nothing(open_page: Open, api: Api) -> None:
    """Guards a laptop with many tabs: browsers allow few connections, and nobody looks."""
    workflow = writing(api)
    run = workflow.start()
    page = open_page("/")
    windows: list[Any] = []
    ended: list[Any] = []
    page.on("request", lambda request: windows.append(request) if "/stream?" in request.url else None)
    page.on("requestfinished", lambda request: ended.append(request) if "/stream?" in request.url else None)
    page.get_by_role("link", name="Watch Long text").click()
    expect(page.get_by_label("Output", exact=True)).to_contain_text("the")
    page.evaluate("""() => {
      window.away = true;
      Object.defineProperty(document, 'hidden', { get: () => window.away });
    }""")
    eventually_sync(lambda: page.wait_for_timeout(50) or len(windows) == len(ended), 10, "the last window is answered")
    before = len(windows)
    run.cancel()
    run.wait("cancelled")
    page.wait_for_timeout(800)  # a page that did ask would do so 0.2 s after its last window
    assert len(windows) == before
    page.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')); }")
    expect(page.locator(".notice")).to_contain_text("Cancelled by ")
    assert len(windows) > before


def test_a_run_that_ended_is_not_followed_any_more(open_page: Open, api: Api, host: Host) -> None:
    """Guards the service: a page of a finished run stops asking when it was told the end."""
    workflow = api.workflow({"kind": "tool", "name": "say", "tool": "echo", "arguments": {"value": 1}})
    page = open_page(address(workflow))
    with page.expect_response(lambda answer: "/stream" in answer.url and answer.status == 204):
        page.goto(host.base_url + address(workflow, workflow.run()))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("tab", name="Events").click()
    eventually_sync(lambda: shown_events(page), 5, "the events are shown")
    assert [url for url in asked if "/stream" in url] == []
