"""The editor: every kind of step by form alone, checked as one types by the service's own words."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from shared.steps import STEP_KINDS
from tests.browser.conftest import Open
from tests.browser.scenes import address, writing
from tests.support.api import WORKFLOWS, Api

NEW = "/app/user/workflows/new"


def step(page: Page, number: int) -> object:
    """The form of a step."""
    return page.locator(f'fieldset[data-step="{number - 1}"]')


def add(page: Page, kind: str) -> None:
    """Add a step."""
    page.get_by_label("Kind of the step to add").select_option(kind)
    page.get_by_role("button", name="Add step").click()


def saved(page: Page, api: Api) -> dict[str, object]:
    """Save, and answer what the service then has."""
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url(re.compile(r"/workflows/[a-z0-9]{26}$"))
    found: dict[str, object] = api.ok("GET", f"{WORKFLOWS}/{page.url.rsplit('/', 1)[1]}")
    return found


def test_every_kind_of_step_is_made_with_the_form_alone(open_page: Open, api: Api) -> None:
    """Guards the form: each kind that the service knows can be added, filled in and saved without a line of JSON."""
    child = writing(api)
    page = open_page(NEW)
    page.get_by_label("Name", exact=True).first.fill("All kinds")
    page.get_by_label("Prompt").fill("Say hello")
    given = {
        "file_sync": {"Put before their names": "in/"},
        "fetch_urls": {"Addresses": "https://example.org/a\nhttps://example.org/b"},
        "analyze_documents": {"Prompt": "About {{document.text}}"},
        "compare_documents": {"Prompt": "Compare {{steps.ask.output}}"},
        "agent": {"Task": "Find out", "Instructions": "Be brief", "Most turns": "3"},
        "tool": {},
        "write_artifact": {"File name": "a.md", "Content": "{{steps.ask.output}}"},
        "notify": {"Subject": "Done", "Message": "See a.md"},
        "child_run": {},
    }
    assert {*given, "model"} == STEP_KINDS
    for number, (kind, fields) in enumerate(given.items(), start=2):
        add(page, kind)
        for label, value in fields.items():
            step(page, number).get_by_label(label, exact=True).fill(value)
        if kind == "agent":
            step(page, number).get_by_label("read_document").check()
        if kind == "child_run":
            step(page, number).get_by_label("Workflow", exact=True).select_option(child.id)
    step(page, 1).get_by_text("Limits and failures").click()
    step(page, 1).get_by_label("Tries again after a failure").fill("1")
    step(page, 1).get_by_label("If it fails").select_option("continue")
    expect(page.locator(".save-bar")).to_contain_text("All is well.")
    steps = saved(page, api)["steps"]
    assert [one["kind"] for one in steps] == ["model", *given]
    assert steps[0] == {
        "kind": "model",
        "name": "ask",
        "prompt": "Say hello",
        "retries": {"max": 1},
        "on_error": "continue",
    }
    assert steps[2]["urls"] == ["https://example.org/a", "https://example.org/b"]
    assert (steps[5]["tools"], steps[5]["max_turns"]) == (["read_document"], 3)
    assert steps[9]["workflow_id"] == child.id


def test_what_is_wrong_is_said_at_its_field_as_one_types(open_page: Open, expected_errors: list[str]) -> None:
    """Guards the check: the service's words, at the field, once it was touched; and gone when it is mended."""
    expected_errors.append("422")
    page = open_page(NEW)
    prompt = page.get_by_label("Prompt")
    prompt.fill("x")
    prompt.fill("")
    field = page.locator(".field", has=prompt)
    expect(field.locator(".wrong")).to_contain_text("Field required")
    expect(prompt).to_have_attribute("aria-invalid", "true")
    name = page.get_by_label("Name", exact=True).first
    wrong = page.locator(".field").first.locator(".wrong")
    expect(wrong).to_be_hidden()
    prompt.fill("fine")
    expect(field.locator(".wrong")).to_be_hidden()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(wrong).to_contain_text("at least 1 character")
    expect(name).to_be_focused()
    name.fill("Named")
    prompt.fill("{{steps.later.output}}")
    expect(field.locator(".wrong")).to_contain_text("later")


def test_a_template_is_tried_in_json_and_saved(open_page: Open, api: Api) -> None:
    """Guards templates and the JSON view: what is written there is what the form shows and the service keeps."""
    page = open_page(NEW)
    page.get_by_role("button", name="Web watch").click()
    expect(page.get_by_label("Cron")).to_have_value("0 7 * * 1-5")
    expect(page.locator(".save-bar")).to_contain_text("The first run is in")
    page.get_by_role("tab", name="JSON").click()
    definition = json.loads(page.get_by_label("Definition").input_value())
    page.get_by_label("Definition").fill(json.dumps({**definition, "name": "Each morning"}))
    page.get_by_role("tab", name="Form").click()
    expect(page.get_by_label("Name", exact=True).first).to_have_value("Each morning")
    workflow = saved(page, api)
    assert (workflow["name"], workflow["trigger"]["time_zone"]) == ("Each morning", "Europe/Paris")


@pytest.mark.parametrize(
    "given", ["5", "null", '{"steps": 1}', '{"steps": [null]}', '{"name": "x", "steps": [{"kind": "new"}]}']
)
def test_json_that_is_no_definition_breaks_nothing(open_page: Open, given: str) -> None:
    """Guards the form against what people paste: it says so, and the JSON is still there to be mended."""
    page = open_page(NEW)
    page.get_by_role("tab", name="JSON").click()
    page.get_by_label("Definition").fill(given)
    expect(page.locator(".save-bar")).to_contain_text("Not complete yet.")
    page.get_by_role("tab", name="Form").click()
    expect(page.locator("#panel")).to_contain_text(re.compile("mended as JSON|does not know this kind"))
    page.get_by_role("tab", name="JSON").click()
    json.loads(page.get_by_label("Definition").input_value())


def test_every_template_is_one_that_the_service_takes(open_page: Open) -> None:
    """Guards templates that went stale."""
    page = open_page(NEW)
    for name in page.locator(".templates strong").all_inner_texts():
        page.get_by_role("button", name=name).click()
        expect(page.get_by_label("Name", exact=True).first).to_have_value(name)
        expect(page.locator(".save-bar")).to_contain_text("All is well.")


def test_a_workflow_is_edited_turned_off_and_deleted(open_page: Open, api: Api) -> None:
    """Guards the life of a workflow on the page; deleting asks, with the safe choice first."""
    workflow = writing(api)
    page = open_page(address(workflow))
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Description").fill("Now with a description")
    step(page, 2).get_by_role("button", name="Move up").click()
    expect(page.locator(".save-bar")).to_contain_text("Not complete yet.")
    step(page, 1).get_by_role("button", name="Move down").click()
    assert saved(page, api)["description"] == "Now with a description"
    page.get_by_role("button", name="Turn off").click()
    expect(page.get_by_text("Turned off: it starts only by hand")).to_be_visible()
    assert workflow.get()["enabled"] is False
    page.get_by_role("button", name="Turn on").click()
    expect(page.get_by_text("By hand")).to_be_visible()
    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("heading", name="No workflows yet")).to_be_visible()


def test_two_who_edit_at_once_do_not_overwrite_each_other(
    open_page: Open, api: Api, expected_errors: list[str]
) -> None:
    """Guards the other's work: the later Save is refused, and what was written is still there."""
    expected_errors.append("412")
    workflow = writing(api)
    page = open_page(address(workflow, None, "edit"))
    page.get_by_label("Description").fill("mine")
    api.ok("PATCH", workflow.path, json={"description": "theirs"})
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".save-bar")).to_contain_text("the workflow has changed since you read it")
    expect(page.get_by_label("Description")).to_have_value("mine")
    assert workflow.get()["description"] == "theirs"
