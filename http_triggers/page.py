"""The page: one document for every address of it, and the files that it loads.

The files are read once. Their addresses hold a hash of all of them, so a browser keeps them for good and never mixes those
of two versions. Nothing on the page is inline and nothing comes from elsewhere, so the policy allows neither.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import azure.durable_functions as df

from http_triggers.api import Answer, Call, add_route
from shared.errors import Problem
from shared.permissions import Rule

WEB = Path(__file__).parent.parent / "web"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
DOCUMENT = "index.html"
POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("script-src", "style-src", "img-src", "connect-src")),
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
DOCUMENT_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
KEPT = {"Cache-Control": "public, max-age=31536000, immutable"}

blueprint = df.Blueprint()


@dataclass(frozen=True, slots=True)
class Page:
    """The page as it is served. `files`: what it loads, by name."""

    version: str
    document: bytes
    files: dict[str, bytes]


@lru_cache(maxsize=1)
def load() -> Page:
    """Read the page from the disk, once."""
    files = {path.name: path.read_bytes() for path in sorted(WEB.iterdir()) if path.suffix in TYPES}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    version = digest.hexdigest()[:16]
    document = (WEB / DOCUMENT).read_text("utf-8").replace("{preloads}", _preloads(files))
    return Page(version, document.replace("{assets}", f"/assets/{version}").encode(), files)


def _preloads(files: dict[str, bytes]) -> str:
    """Links for the modules that every view needs, so that they come together and not one after the other."""
    wanted, found = ["main.js"], []
    while wanted:
        name = wanted.pop()
        found.append(name)
        imports = re.findall(r'^import [^;]*?"\./([^"]+)";$', files[name].decode(), re.MULTILINE)
        wanted += [other for other in imports if other not in (*found, *wanted)]
    return "\n".join(f'<link rel="modulepreload" href="{{assets}}/{name}">' for name in sorted(found))


async def page(_call: Call) -> Answer:
    """GET / and every address below /app/: the page, which knows what to show there."""
    return Answer(200, load().document, DOCUMENT_HEADERS, "text/html")


async def asset(call: Call) -> Answer:
    """GET /assets/{version}/{name}. Of another version, which a page of before asks for, the answer is not kept."""
    served, name = load(), call.route("name")
    if name not in served.files:
        raise Problem(404, "asset_not_found", "the page has no such file")
    headers = KEPT if call.route("version") == served.version else {}
    return Answer(200, served.files[name], headers, TYPES[Path(name).suffix])


add_route(blueprint, "page", "GET", "{ignored:maxlength(0)?}", page, Rule.ANYONE)
add_route(blueprint, "page_views", "GET", "app/{*path}", page, Rule.ANYONE)
add_route(blueprint, "page_assets", "GET", "assets/{version}/{name}", asset, Rule.ANYONE)
