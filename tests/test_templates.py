"""Templates: what renders, what is refused at save, and that values are never templates."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import StepFailed
from shared.templates import MAX_RENDERED, TemplateError, check, references, render, render_value

VALUES: dict[str, Any] = {
    "input": {"a": {"b": "deep"}, "n": 3, "list": [{"x": "first"}, None], "é-1": True, "text": "{{input.n}}"},
    "steps": {"read": {"output": "what was read"}, "count": {"output": {"total": 2.5, "ok": False}}},
    "document": {"name": "a.txt", "text": "its text"},
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("no template", "no template"),
        ("", ""),
        ("{{steps.read.output}}!", "what was read!"),
        ("{{ input.a.b }}{{\ninput.n\n}}", "deep3"),
        ("{{document.name}}: {{document.text}}", "a.txt: its text"),
        ("{{input.list.0.x}} {{input.list.1}}", "first null"),
        ("{{input.a}} {{steps.count.output}}", '{"b":"deep"} {"total":2.5,"ok":false}'),
        ("{{steps.count.output.total}}", "2.5"),
        ("{{input.é-1}}", "true"),
        ('{"k": {"v": {{input.n}}}} } } {', '{"k": {"v": 3}} } } {'),
        (r"\{{input.n}}", "{{input.n}}"),
        (r"C:\\{{input.n}}", r"C:\3"),
        (r"\d \\ \{ {{input.n}}", r"\d \\ \{ 3"),
    ],
)
def test_render(template: str, expected: str) -> None:
    """References are replaced and everything else stays as it is."""
    assert render(template, VALUES) == expected


def test_a_value_is_never_a_template() -> None:
    """A fetched page that holds braces must not read other outputs, nor fail the step."""
    assert render("{{input.text}} {{input.n}}", VALUES) == "{{input.n}} 3"
    assert render("{{input}}", {"input": "{{broken"}) == "{{broken"
    assert render_value(["{{input.text}}"], VALUES) == ["{{input.n}}"]


@given(st.text(alphabet="{}\\. ainput", max_size=40))
def test_any_text_renders_or_is_refused_when_saved(text: str) -> None:
    """What `check` lets pass never fails for its syntax later."""
    try:
        check(text, step_names=(), document=False)
    except TemplateError:
        return
    try:
        render(text, {"input": "x"})
    except StepFailed as error:
        assert error.code == "template_unknown_path"


@pytest.mark.parametrize(
    ("template", "position", "says"),
    [
        ("ab {{", 3, "without '}}'"),
        ("{{}}", 0, "not a path"),
        ("{{ a b }}", 0, "not a path"),
        ("{{input..a}}", 0, "not a path"),
        ("x{{{input}}}", 1, "not a path"),
        ("{{input.a | upper}}", 0, "not a path"),
        ("{{input\\.a}}", 0, "not a path"),
        ("{{input.n}} {{ if }", 12, "without '}}'"),
    ],
)
def test_syntax_errors_say_where(template: str, position: int, says: str) -> None:
    """People see the message at the field they are typing in."""
    with pytest.raises(TemplateError) as caught:
        references(template)
    assert caught.value.position == position
    assert says in str(caught.value)
    assert f"(at character {position})" in str(caught.value)


@pytest.mark.parametrize(
    ("template", "document", "says"),
    [
        ("{{stepz.read.output}}", True, "'stepz' is unknown"),
        ("{{steps.write.output}}", True, "no earlier step is named 'write'; before it: read, count"),
        ("{{steps.read}}", True, "steps.NAME.output"),
        ("{{steps.read.error}}", True, "steps.NAME.output"),
        ("{{steps}}", True, "steps.NAME.output"),
        ("{{document.text}}", False, "one document at a time"),
        ("{{document}}", True, "document.name"),
        ("{{document.text.x}}", True, "document.name"),
        ("ok {{input}} {{env.KEY}}", True, "'env' is unknown"),
    ],
)
def test_unknown_paths_are_refused_when_saved(template: str, document: bool, says: str) -> None:
    """An unknown path is an error of the field, not a surprise in the run."""
    with pytest.raises(TemplateError) as caught:
        check(template, step_names=["read", "count"], document=document)
    assert says in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_what_a_run_may_bring_passes_the_check() -> None:
    """The shape of an input, and what is inside an output, is known only later."""
    text = "{{input}} {{input.any.thing.0}} {{steps.read.output.x}} {{document.name}} \\{{nonsense"
    check(text, step_names=["read"], document=True)
    assert [str(one) for one in references("a {{ input.x }}")] == ["{{input.x}}"]


@pytest.mark.parametrize(
    "path", ["input.x", "input.a.b.c", "input.list.2", "input.list.-1", "steps.gone.output", "input.text.0"]
)
def test_an_unknown_path_fails_the_step_by_name(path: str) -> None:
    """Silently rendering nothing would ask the model about nothing."""
    with pytest.raises(StepFailed) as caught:
        render(f"x {{{{{path}}}}}", VALUES)
    assert caught.value.code == "template_unknown_path"
    assert path in caught.value.detail
    assert not caught.value.retryable


def test_the_result_is_bounded() -> None:
    """A few references to a large output must not become gigabytes."""
    big = {"input": "x" * (MAX_RENDERED // 2), "steps": {}}
    assert len(render("{{input}}{{input}}", big)) == MAX_RENDERED
    for template in ("{{input}}{{input}}!", "{{input}}" * 5000):
        with pytest.raises(StepFailed, match="template_too_large"):
            render(template, big)
    with pytest.raises(StepFailed, match="template_too_large"):
        render_value({"a": ["{{input}}"] * 3}, big)
    nested: Any = "x"
    for _ in range(100):
        nested = [nested]
    with pytest.raises(StepFailed, match="template_too_large"):
        render_value(nested, big)


def test_render_value_keeps_types_of_whole_references() -> None:
    """A tool that wants a number must get a number, not its text."""
    template = {
        "seconds": "{{input.n}}",
        "spaced": "{{ input.a }}",
        "text": "n={{input.n}}",
        "nested": [{"x": "{{steps.count.output.ok}}"}, 1, None, True],
        "{{input.n}}": "\\{{input.n}}",
    }
    assert render_value(template, VALUES) == {
        "seconds": 3,
        "spaced": {"b": "deep"},
        "text": "n=3",
        "nested": [{"x": False}, 1, None, True],
        "{{input.n}}": "{{input.n}}",
    }


def test_hostile_templates_take_linear_time() -> None:
    """A definition may be long; checking it must not hold the process."""
    began = time.monotonic()
    for piece in ("{", "\\", "{{a", "}}", "{{input}}", "\\{{"):
        try:
            check(piece * (200_000 // len(piece)), step_names=(), document=False)
        except TemplateError:
            pass
    for text in ("{{" + " " * 200_000, "{{" + "a." * 100_000, "{{" + "a" * 200_000 + "!"):
        with pytest.raises(TemplateError):
            references(text)
    assert time.monotonic() - began < 3
