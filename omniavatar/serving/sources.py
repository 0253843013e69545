"""The files that a job brings: base64, a data URL, or an address that anybody can open.

Sizes are known before anything is decoded or kept. An address is resolved once and the connection
goes to what it resolved to, so that no name can turn into the worker's own network in between;
every redirect is looked at again in the same way.
"""

import base64
import binascii
import http.client
import ipaddress
import re
import socket
import ssl
import string
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from omniavatar import InputError

MOST_REDIRECTS = 5
BLOCK_BYTES = 1 << 16
HANG_UP_SECONDS = 0.1
CONNECT_SECONDS = 10.0
WHITESPACE = b" \t\r\n\v\f"
URL_SAFE = bytes.maketrans(b"-_", b"+/")
ACCEPTED = "Give base64, a data URL, or an http(s) address"


class TooLargeError(InputError):
    """A file or a video is larger or longer than is accepted."""

    code = "too_large"


class DownloadError(InputError):
    """The address of a file does not give the file."""

    code = "download_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a download may take.

    Attributes:
        most_bytes: size of a file.
        seconds: from the first connection to the last byte.
        private_addresses: whether addresses that are not public are allowed.
    """

    most_bytes: int
    seconds: float
    private_addresses: bool = False


def save(
    value: Any, path: Path, *, field: str, limits: Limits, stop: threading.Event | None = None
) -> None:
    """Write the file that one field of a job gives.

    Args:
        value: as in the job's JSON.
        path: where the file goes.
        field: name of the field, for messages.
        stop: ends a download when it is set.

    Raises:
        InputError: the value is of another kind, too large, or its address gives nothing.
    """
    if not isinstance(value, str) or not value:
        raise InputError(f"{field} is not a text. {ACCEPTED}.", field=field)
    value = value.strip()
    if re.match(r"https?://", value, re.IGNORECASE):
        download(value, path, field=field, limits=limits, stop=stop)
        return
    if value[:5].lower() == "data:":
        header, _, value = value.partition(",")
        if not header.lower().endswith(";base64"):
            raise InputError(f"{field} is a data URL without ;base64. {ACCEPTED}.", field=field)
    path.write_bytes(_decoded(value, field, limits))


def _decoded(text: str, field: str, limits: Limits) -> bytes:
    """What base64 stands for, in lines or in one, in the usual letters or in those for URLs."""
    try:
        letters = text.encode("ascii").translate(None, WHITESPACE)
        if len(letters) // 4 * 3 > limits.most_bytes + 2:
            raise _too_large(field, limits)
        if b"-" in letters or b"_" in letters:  # for URLs, which often leaves out the padding
            letters = letters.translate(URL_SAFE) + b"=" * (-len(letters) % 4)
        content = base64.b64decode(letters, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InputError(f"{field} is not valid base64. {ACCEPTED}.", field=field) from error
    if len(content) > limits.most_bytes:
        raise _too_large(field, limits)
    return content


def download(
    url: str, path: Path, *, field: str, limits: Limits, stop: threading.Event | None = None
) -> None:
    """Write what an address gives.

    Args:
        stop: ends the download when it is set.

    Raises:
        TooLargeError: it gives more than `limits.most_bytes`.
        DownloadError: it is not public, gives nothing within `limits.seconds`, or was stopped.
    """
    end = time.monotonic() + limits.seconds
    for _ in range(MOST_REDIRECTS + 1):
        with _get(url, field, limits, end, stop or threading.Event()) as answer:
            if answer.status in (301, 302, 303, 307, 308) and answer.getheader("Location"):
                url = urljoin(url, answer.getheader("Location") or "")
                continue
            if answer.status != 200:
                raise DownloadError(
                    f"{field}: the address answers with status {answer.status}. "
                    "Use one that anybody can open.",
                    field=field,
                )
            _write(answer, path, field, limits, end)
            return
    raise DownloadError(
        f"{field}: the address redirects more than {MOST_REDIRECTS} times. Use the last one.",
        field=field,
    )


@contextmanager
def _get(
    url: str, field: str, limits: Limits, end: float, stop: threading.Event
) -> Iterator[http.client.HTTPResponse]:
    """One GET, without following redirects; everything has ended when `end` is reached."""
    parts = _split(url, field)
    with _network(field, limits, end):
        addresses = _resolve(parts, field, private=limits.private_addresses)
        connection = _connect(parts, addresses, end=end)
    with closing(connection), _guard(connection.sock, end, stop):
        with _network(field, limits, end):
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            target = quote(target, safe=string.punctuation)  # its letters beyond ASCII
            host = parts.netloc.rpartition("@")[2].encode("idna").decode("ascii")
            connection.request("GET", target, headers={"Host": host, "User-Agent": "omniavatar"})
            answer = connection.getresponse()
        yield answer


@contextmanager
def _network(field: str, limits: Limits, end: float) -> Iterator[None]:
    """Faults of the network become those of the address; a full disk, say, stays ours."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = time.monotonic() >= end - HANG_UP_SECONDS
        slow = TimeoutError(f"it took more than {limits.seconds:g} seconds")
        raise _unreachable(field, slow if late else error) from error


@contextmanager
def _guard(sock: socket.socket, end: float, stop: threading.Event) -> Iterator[None]:
    """Hang up at `end`, or once the job is cancelled: a server that sends a byte now and then
    never runs into the socket's own limit."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(HANG_UP_SECONDS):
            if stop.is_set() or time.monotonic() >= end:
                with suppress(OSError):  # it has ended by itself
                    sock.shutdown(socket.SHUT_RDWR)
                return

    watcher = threading.Thread(target=watch, name="download-guard", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _split(url: str, field: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme.lower() in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or re.search(r"[\x00-\x20\x7f]", url):
        raise DownloadError(
            f"{field} is not an address that can be read. Use http:// or https://.", field=field
        )
    return parts


def _resolve(parts: SplitResult, field: str, *, private: bool) -> Sequence[str]:
    """The numeric addresses of a name, every one of which must be public."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not private and not all(_is_public(address) for address in addresses):
        raise DownloadError(
            f"{field}: the address is not on the public internet. Use one that anybody can open, "
            "or base64.",
            field=field,
        )
    return addresses


def _is_public(address: str) -> bool:
    number = ipaddress.ip_address(address.split("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        # What IPv6 merely wraps is reached all the same.
        wrapped = number.ipv4_mapped or number.sixtofour or (number.teredo or (None,))[-1]
        if number in ipaddress.ip_network("64:ff9b::/96"):
            wrapped = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        # All that is public begins so; what does not, such as old site-local addresses, is
        # "global" for the library as long as nobody has written it down.
        if wrapped is None and number not in ipaddress.ip_network("2000::/3"):
            return False
        number = wrapped or number
    return number.is_global and not number.is_multicast


def _connect(
    parts: SplitResult, addresses: Sequence[str], *, end: float
) -> http.client.HTTPConnection:
    """A connection to the first address that takes it, which speaks to the host of the URL."""
    host = parts.hostname or ""
    secure = parts.scheme.lower() == "https"
    connection = http.client.HTTPConnection(host, parts.port or (443 if secure else 80))
    for address in addresses:
        left = max(end - time.monotonic(), 0.001)
        try:
            sock = socket.create_connection(
                (address, connection.port), timeout=min(left, CONNECT_SECONDS)
            )
            break
        except OSError:  # a host with an address of IPv6 is reached from one without
            if address == addresses[-1]:
                raise
    try:
        if secure:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        sock.settimeout(max(end - time.monotonic(), 0.001))
    except BaseException:
        sock.close()
        raise
    connection.sock = sock
    return connection


def _write(
    answer: http.client.HTTPResponse, path: Path, field: str, limits: Limits, end: float
) -> None:
    whole = answer.length  # None when it is not announced
    if whole is not None and whole > limits.most_bytes:
        raise _too_large(field, limits)
    written = 0
    with path.open("wb") as file:
        while True:
            with _network(field, limits, end):
                block = answer.read(BLOCK_BYTES)
                if not block and time.monotonic() >= end - HANG_UP_SECONDS:
                    raise TimeoutError  # we hung up, which looks like an end
            if not block:
                break
            written += len(block)
            if written > limits.most_bytes:
                raise _too_large(field, limits)
            file.write(block)
    if whole is not None and written < whole:
        raise DownloadError(
            f"{field}: the connection ended after {written} of {whole} bytes. Try again.",
            field=field,
        )


def _too_large(field: str, limits: Limits) -> TooLargeError:
    return TooLargeError(
        f"{field} is larger than {limits.most_bytes / 1e6:g} MB, the most that is accepted. "
        "Send a smaller picture, or a compressed recording (MP3, M4A, Opus).",
        field=field,
    )


def _unreachable(field: str, error: BaseException) -> DownloadError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DownloadError(
        f"{field}: nothing could be loaded from the address ({reason}). "
        "Use one that anybody can open, or base64.",
        field=field,
    )
