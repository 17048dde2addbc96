"""Pages of HTML, taken apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

EMBEDDED = "data:image/png;base64,"
_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A page taken apart; fails where a tag isn't closed."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.images, self.links, self.words, self._open = [], [], [], "", []
        self.text = path.read_text()
        self.feed(self.text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.images += [values["src"]] if "src" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.words += data

    @property
    def said(self):
        return " ".join(self.words.split())


def assert_needs_nothing(page, folder):
    """One file for itself: pictures inside, links to files beside it, no code and no address of elsewhere."""
    assert page.images
    assert all(address.startswith(EMBEDDED) for address in page.images)
    assert all((folder / link).is_file() for link in page.links)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", page.text)
