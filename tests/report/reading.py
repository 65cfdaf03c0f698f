"""Reports as a browser reads them."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

OPEN_ENDED = {"meta", "link", "img", "br", "hr"}


class Reader(HTMLParser):
    """Collects text, the addresses that a browser would load, and whether every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scrolling: list[bool] = []
        self.tables: list[bool] = []
        """Of each table, whether it scrolls in a box of its own."""
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.text += " "
        if tag not in OPEN_ENDED:
            self.open.append(tag)
            self.scrolling.append(("class", "scroll") in attrs)
        if tag == "table":
            self.tables.append(any(self.scrolling))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.scrolling.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["script"]:
            self.text += data.replace("\u00a0", " ")


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    reader.text = re.sub(r"\s+", " ", reader.text)
    return reader


def metrics(html: str) -> list[str]:
    """The SVG text of every metric."""
    return [base64.b64decode(found).decode() for found in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", html)]


def assert_self_contained(html: str) -> None:
    reader = read(html)
    assert reader.addresses
    assert all(address.startswith("data:image/") for address in reader.addresses)
    assert reader.tags.isdisjoint({"link", "iframe", "object"})
    # The browser runs a script only if the policy has its digest.
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src '([^']*)'", html) == [f"sha256-{digest}"]
    assert not re.search(r"\bon\w+=|fetch|XMLHttp|WebSocket|import", script)
    assert "url(" not in html
    assert "default-src 'none'" in html
    for metric in metrics(html):
        # Names of XML namespaces are no links; nothing else may look like an address.
        assert set(re.findall(r"https?://[^\"'<\s]+", metric)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
            "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd",
        }
