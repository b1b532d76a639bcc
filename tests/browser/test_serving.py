"""What a browser is served, and with which headers."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.support.host import Host


@pytest.mark.parametrize("path", ["/", "/app", "/app/user/workflows/x/runs/y?node=s01"])
def test_every_address_of_the_page_is_the_page_also_for_who_is_signed_out(host: Host, path: str) -> None:
    """Guards deep links: a reload or a link that somebody sent must not be a 404, whoever opens it."""
    answer = httpx.get(host.base_url + path, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_files_are_kept_for_good_by_their_version_alone(host: Host) -> None:
    """Guards both ways: a file of this version is never asked for again, one of another is never kept."""
    document = httpx.get(host.base_url, trust_env=False).text
    path = re.findall(r'src="(/assets/[^"]+)"', document)[0]
    kept = httpx.get(host.base_url + path, trust_env=False)
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert kept.headers["content-type"].startswith("text/javascript")
    other = httpx.get(f"{host.base_url}/assets/0000/{path.rsplit('/', 1)[1]}", trust_env=False)
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-store")


@pytest.mark.parametrize(
    "name", ["index.html", "..%2ffunction_app.py", "%2e%2e%2fhost.json", "main.js%00", "nothing.js"]
)
def test_nothing_but_the_pages_files_is_served(host: Host, name: str) -> None:
    """Guards against a way out of the folder."""
    answer = httpx.get(f"{host.base_url}/assets/x/{name}", trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (404, "asset_not_found")
