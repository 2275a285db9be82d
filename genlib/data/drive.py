"""HTML that comes in place of a file, above all Google Drive's: its confirmation page and its quota refusal."""

from contextlib import suppress
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

BASE = "https://drive.usercontent.google.com"
_QUOTA_WORDS = ("quota exceeded", "too many users have viewed or downloaded")
_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")
_FORM_IDS = ("download-form", "downloadForm")


def file_url(drive_id: str, base: str = BASE) -> str:
    """The address that serves a shared file; `base` has no slash at its end."""
    return f"{base}/download?{urlencode({'id': drive_id, 'export': 'download', 'confirm': 't'})}"


def view_url(drive_id: str) -> str:
    """The page on which a person can download a shared file in a browser."""
    return f"https://drive.google.com/file/d/{drive_id}/view"


def starts_as_page(head: bytes) -> bool:
    """Whether a file that begins with `head` is an HTML page, whatever it is labelled as."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:16].lower().startswith(_PAGE_STARTS)


def is_quota_page(page: str) -> bool:
    """Whether an HTML page says that the file was downloaded too often of late (it can come with any status)."""
    text = " ".join(page.lower().split())
    return any(words in text for words in _QUOTA_WORDS)


def confirmation_url(page: str, page_url: str) -> str | None:
    """Where the form of a "can't scan this file for viruses" page leads, hidden inputs included; None without one."""
    parsed = _parse(page)
    if parsed.action is None:
        return None
    parts = urlsplit(urljoin(page_url, parsed.action))
    if parts.scheme not in ("http", "https"):
        return None
    return parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **parsed.hidden})).geturl()


def title(page: str) -> str:
    """The title of an HTML page on one line, at most 80 characters; empty if it has none."""
    return " ".join(_parse(page).title.split())[:80]


def _parse(page: str) -> "_Page":
    parsed = _Page()
    # html.parser gives up on some malformed declarations with an AssertionError; what it saw until then is enough.
    with suppress(AssertionError):
        parsed.feed(page)
    return parsed


class _Page(HTMLParser):
    """Collects the title, and the download form's action and hidden inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.action: str | None = None
        self.hidden: dict[str, str] = {}
        self._in_form = False
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "title":
            self._in_title = True
        elif tag == "form" and values.get("id") in _FORM_IDS:
            self._in_form = True
            self.action = values.get("action") or ""
        elif tag == "input" and self._in_form and values.get("type") == "hidden" and values.get("name"):
            self.hidden[str(values["name"])] = values.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag == "form":
            self._in_form = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
