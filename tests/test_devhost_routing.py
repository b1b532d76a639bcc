"""Route templates: matched as ASP.NET matches them."""

from __future__ import annotations

import pytest

from devhost.routing import RouteError, Router, Template, decode_path


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("api/runs", "/api/runs", {}),
        ("api/runs", "/API/Runs/", {}),
        ("api/runs", "/api/runs//", None),
        ("api/runs", "/api/runsx", None),
        ("api/runs.json", "/api/runsxjson", None),
        ("runs/{id}", "/runs/A b", {"id": "A b"}),
        ("runs/{id}", "/runs/", None),
        ("runs/{id}", "/runs/a/b", None),
        ("runs/{id}", "/runs//b", None),
        ("runs/{id?}", "/runs", {}),
        ("runs/{id?}", "/runs/7", {"id": "7"}),
        ("runs/{id:int}", "/runs/-7", {"id": "-7"}),
        ("runs/{id:int}", "/runs/7x", None),
        ("runs/{id:int}", "/runs/2147483648", None),
        ("runs/{id:long}", "/runs/2147483648", {"id": "2147483648"}),
        ("runs/{id:int?}", "/runs", {}),
        ("runs/{id:int?}", "/runs/x", None),
        ("runs/{a}/{b?}", "/runs/1", {"a": "1"}),
        ("runs/{a?}/{b?}", "/runs", {}),
        ("runs/{a?}/{b?}", "/runs/1/2", {"a": "1", "b": "2"}),
        ("files/{*rest}", "/files/a/b.txt", {"rest": "a/b.txt"}),
        ("files/{*rest}", "/files/a/", {"rest": "a/"}),
        ("files/{*rest}", "/files", {}),
        ("files/{*rest}", "/files/", {}),
        ("files/{**rest}", "/files/a", {"rest": "a"}),
        ("{*rest}", "/", {}),
        ("{*rest}", "/a/b", {"rest": "a/b"}),
        ("{ignored:maxlength(0)?}", "/", {}),
        ("{ignored:maxlength(0)?}", "/x", None),
        ("{id:length(2,3)}", "/abc", {"id": "abc"}),
        ("{id:length(2,3)}", "/abcd", None),
        ("{id:minlength(2):alpha}", "/ab", {"id": "ab"}),
        ("{id:minlength(2):alpha}", "/a1", None),
        ("{id:range(1,3)}", "/3", {"id": "3"}),
        ("{id:range(1,3)}", "/4", None),
        ("{id:min(5)}", "/4", None),
        ("{id:max(5)}", "/5", {"id": "5"}),
        ("{id:bool}", "/True", {"id": "True"}),
        ("{id:guid}", "/6f9619ff-8b86-d011-b42d-00cf4fc964ff", {"id": "6f9619ff-8b86-d011-b42d-00cf4fc964ff"}),
        ("{id:guid}", "/6f9619ff", None),
        ("{id:regex(^a(b|c)+$)}", "/aBc", {"id": "aBc"}),
        ("{id:regex(^a(b|c)+$)}", "/ad", None),
        ("", "/", {}),
        ("", "/x", None),
    ],
)
def test_a_template_matches_as_aspnet_does(template: str, path: str, expected: dict[str, str] | None) -> None:
    """A route that matches only here, or only on Azure, would surface after deployment."""
    assert Template(template).match(path) == expected


@pytest.mark.parametrize(
    ("raw_path", "expected"),
    [("/a%20b", "/a b"), ("/%C3%A9", "/é"), ("/a%2Fb%2fc", "/a%2Fb%2Fc"), ("/a+b", "/a+b"), ("/100%25", "/100%")],
)
def test_a_path_is_decoded_except_for_slashes(raw_path: str, expected: str) -> None:
    """A decoded %2F would let one parameter pass for two segments."""
    assert decode_path(raw_path) == expected


@pytest.mark.parametrize(
    "template",
    [
        "a-{b}",
        "{a}{b}",
        "{a",
        "{*rest}/x",
        "{a?}/b",
        "{a?}/{b}",
        "{a}/{a}",
        "{a:int(}",
        "{a:datetime}",
        "{a:min(x)}",
        "{a=5}",
    ],
)
def test_a_template_that_is_not_supported_is_refused_at_start(template: str) -> None:
    """Serving it wrongly would be found out much later."""
    with pytest.raises(RouteError, match="route"):
        Template(template)


def test_of_overlapping_routes_the_first_by_name_wins() -> None:
    """The host sorts by function name, so the more specific route may lose; an app must see that here too."""
    router: Router[str] = Router()
    router.add("b_exact", ["GET"], "runs/latest", "exact")
    router.add("A_any", ["get"], "runs/{id}", "any")
    router.add("c_post", ["POST"], "runs/{id}", "post")
    router.add("d_all", None, "other", "all")

    assert router.match("GET", "/runs/latest") == ("any", {"id": "latest"})
    assert router.match("POST", "/runs/7") == ("post", {"id": "7"})
    assert router.match("DELETE", "/runs/7") is None
    assert router.match("HEAD", "/runs/7") is None
    assert router.match("DELETE", "/other") == ("all", {})
