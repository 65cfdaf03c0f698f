"""Reports as a browser reads them."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

OPEN_ENDED = {"meta", "link", "img", "br", "hr"}


class Reader(HTMLParser):
    """Collects text, the addresses that a browser would load, and whether every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.text += " "
        if tag not in OPEN_ENDED:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
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
    assert reader.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert "url(" not in html
    assert "default-src 'none'" in html
    for metric in metrics(html):
        # Names of XML namespaces are no links; nothing else may look like an address.
        assert set(re.findall(r"https?://[^\"'<\s]+", metric)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
            "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd",
        }
