"""The transfer of one file over HTTP: resumed, retried, bounded in size, and never an HTML page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError
from urllib3.util import Retry

from genlib.data import drive
from genlib.data.meter import meter, say, size
from genlib.data.partial import Memo, check_space, discard, kept, length, remember
from genlib.errors import GenlibError

CHUNK_BYTES = 1 << 16
PAGE_BYTES = 1 << 20
RENEWAL_BYTES = 1 << 20
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
_PAGE_TYPES = ("text/html", "application/xhtml+xml")


class SourceError(Exception):
    """A source does not give the file. The message is the reason, fit to stand in a line with other reasons."""


class _PassingError(Exception):
    """A fault that may pass: worth another try, from where the transfer stopped."""

    def __init__(self, reason: str, response: requests.Response | None = None) -> None:
        super().__init__(reason)
        self.response = response


@dataclass(frozen=True)
class Address:
    """Where a file is served; `drive` says that Google Drive's confirmation page may come first."""

    url: str
    drive: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "?"


@dataclass(frozen=True)
class Transfer:
    """How patient a transfer is.

    `retries` counts tries after the first; it starts anew whenever another MiB has arrived. The wait before the n-th
    consecutive retry is 0 for the first and `backoff_seconds` * 2**(n-1) after it, unless the server names one with
    Retry-After; no wait exceeds `max_wait_seconds`. `drive_base` is where Google Drive answers.
    """

    retries: int = 4
    backoff_seconds: float = 1.0
    max_wait_seconds: int = 60
    connect_seconds: float = 15.0
    read_seconds: float = 60.0
    drive_base: str = drive.BASE

    def policy(self) -> Retry:
        """The same as urllib3 counts it."""
        return Retry(
            total=self.retries,
            backoff_factor=self.backoff_seconds,
            backoff_max=self.max_wait_seconds,
            retry_after_max=self.max_wait_seconds,
        )


DEFAULT = Transfer()


def download(address: Address, part: Path, max_bytes: int, label: str, transfer: Transfer = DEFAULT) -> bool:
    """Bring the file at `address` to `part`, going on with what is already there.

    Nothing is verified here but length and kind. Returns True if the file was put together from several answers, so
    that a wrong checksum may be the seam's fault and a fresh transfer right.
    Raises SourceError if the address does not give the file, GenlibError if the disk does not take it.
    """
    policy, furthest = transfer.policy(), 0
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"
        while True:
            try:
                return _attempt(session, address, part, max_bytes, label, transfer)
            except _PassingError as fault:
                arrived = length(part)
                if arrived >= furthest + RENEWAL_BYTES:
                    policy, furthest = transfer.policy(), arrived
                policy = _wait(policy, fault, address, label, transfer)


def _attempt(
    session: requests.Session, address: Address, part: Path, max_bytes: int, label: str, transfer: Transfer
) -> bool:
    """One request and its body. Raises _PassingError when it is worth trying again."""
    offset, memo = kept(part, address.url)
    if offset and offset == memo.total:
        return True
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and memo.validator:
        headers["If-Range"] = memo.validator
    with _open(session, address, headers, transfer) as response:
        try:
            start, total = _extent(response, offset, memo)
        except _PassingError:
            discard(part)
            raise
        if total is not None and total > max_bytes:
            raise SourceError(f"announces {size(total)}, more than the {size(max_bytes)} this file may have")
        check_space(part.parent, (total or 0) - start, label)
        if start == 0:
            discard(part)
        remember(part, address.url, _validator(response), total)
        _receive(response, part, start, total, max_bytes, label)
    return start > 0


def _open(
    session: requests.Session, address: Address, headers: dict[str, str], transfer: Transfer
) -> requests.Response:
    """The answer that holds the file, after Drive's confirmation page if there is one."""
    response = _get(session, address.url, headers, transfer)
    page = _page(response)
    confirmed = drive.confirmation_url(page, response.url) if address.drive else None
    if confirmed is not None:
        response.close()
        response = _get(session, confirmed, headers, transfer)
        page = _page(response)
    status = response.status_code
    if status == 416 or (status in (200, 206) and not page):
        return response
    response.close()
    if drive.is_quota_page(page):
        raise SourceError("Google Drive's download quota for this file is used up (it comes back within a day or so)")
    if status in _PASSING_STATUS:
        raise _PassingError(_status(response), response)
    if status not in (200, 206):
        raise SourceError(_status(response))
    raise SourceError(f"answers with an HTML page ({drive.title(page) or 'no title'}), not with the file")


def _get(session: requests.Session, url: str, headers: dict[str, str], transfer: Transfer) -> requests.Response:
    try:
        return session.get(url, headers=headers, stream=True, timeout=(transfer.connect_seconds, transfer.read_seconds))
    except requests.exceptions.SSLError as error:
        raise SourceError(f"no secure connection ({_cause(error)})") from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _PassingError(f"no connection ({_cause(error)})") from error
    except requests.RequestException as error:
        raise SourceError(f"cannot be asked ({type(error).__name__})") from error


def _extent(response: requests.Response, offset: int, memo: Memo) -> tuple[int, int | None]:
    """Where the body starts in the file, and the file's length if it is known."""
    if response.status_code == 200:
        announced = response.headers.get("Content-Length", "")
        return 0, int(announced) if announced.isdecimal() else None
    stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if response.status_code == 416 or stated is None or int(stated[1]) != offset:
        raise _PassingError(f"does not go on at byte {offset} ({_status(response)}), starting again")
    total = memo.total if stated[2] == "*" else int(stated[2])
    if offset and memo.total not in (None, total):
        raise _PassingError("the file changed in the meantime, starting again")
    return offset, total


def _receive(
    response: requests.Response, part: Path, start: int, total: int | None, max_bytes: int, label: str
) -> None:
    """Write the body into `part` from byte `start` on."""
    arrived = start
    try:
        with part.open("ab" if start else "wb") as file, meter(label, start, total) as advance:
            for chunk in _chunks(response):
                if arrived == 0 and drive.starts_as_page(chunk):
                    raise SourceError("answers with an HTML page that claims to be the file")
                arrived += len(chunk)
                if arrived > max_bytes:
                    raise SourceError(f"sends more than the {size(max_bytes)} this file may have")
                file.write(chunk)
                advance(len(chunk))
    except SourceError:
        discard(part)
        raise
    except OSError as error:
        raise GenlibError(f"{part}: cannot be written ({error.strerror}); mend that and try again") from error
    if total is not None and arrived != total:
        raise _PassingError(f"the connection broke at byte {arrived} of {total}")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as sent: a .gz that a server labels as encoded must not be unpacked on the way."""
    try:
        yield from response.raw.stream(CHUNK_BYTES, decode_content=False)
    except HTTPError as error:
        raise _PassingError(f"the connection broke ({_cause(error)})") from error


def _wait(policy: Retry, fault: _PassingError, address: Address, label: str, transfer: Transfer) -> Retry:
    """Sleep as the policy and the server ask; SourceError when the tries are used up."""
    try:
        policy = policy.increment("GET", address.url)
    except MaxRetryError as error:
        raise SourceError(f"{fault}, {transfer.retries + 1} tries") from error
    say(f"{label}: {address.host}: {fault}; retry {transfer.retries - int(policy.total or 0)} of {transfer.retries}")
    try:
        policy.sleep(fault.response.raw if fault.response is not None else None)
    except InvalidHeader:
        policy.sleep()
    return policy


def _validator(response: requests.Response) -> str | None:
    """What If-Range may carry: a strong ETag or a date (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _page(response: requests.Response) -> str:
    """The text of an answer that is labelled as HTML, its first MiB; empty for any other answer."""
    label = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if label not in _PAGE_TYPES:
        return ""
    try:
        return next(response.iter_content(PAGE_BYTES), b"").decode("utf-8", "replace") or " "
    except (requests.RequestException, HTTPError):
        return " "


def _status(response: requests.Response) -> str:
    return f"HTTP {response.status_code} {' '.join(str(response.reason).split())[:60]}".rstrip()


def _cause(error: BaseException) -> str:
    """The operating system's own words, from the bottom of a chain of exceptions, or the name of the last of them."""
    while not (isinstance(error, OSError) and error.strerror):
        below = error.__cause__ or error.__context__
        if below is None:
            return type(error).__name__
        error = below
    return error.strerror
