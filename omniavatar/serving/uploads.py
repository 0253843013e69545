"""What comes in by HTTP is looked at before Gradio sees it: files, addresses, and calls as a whole.

A file is one that was uploaded here, or an address from which it is fetched with limits. Whatever
else a call holds, its answer is a sentence. This stands before all endpoints, those of the page
included, so that none of them can be made to read the server's own files or its network.
"""

import asyncio
import json
import logging
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import gradio as gr
from gradio.processing_utils import get_upload_folder, save_file_to_cache

from omniavatar import InputError
from omniavatar.serving.sources import Limits, download

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_CALL_BYTES = 4_000_000
MOST_FILES = 1000
MOST_DOWNLOADS = 4
DOWNLOAD = Limits(most_bytes=200_000_000, seconds=60.0)
EXAMPLES = Path(__file__).parents[2] / "examples"

_CALL = re.compile(
    r".*/(?:gradio_api/)?(?:call(?:/(?P<v2>v2))?/(?P<name>[^/]+)|queue/join|run/(?P<run>[^/]+)"
    r"|api/(?P<api>[^/]+))/?"
)
_FAULT = "Something went wrong on our side; it has been noted. Please try again."


def uploaded_file(value: Any, *, field: str) -> Path:
    """The place of a file that a call gives.

    Args:
        value: as Gradio has it in JSON, {"path": ...}.
        field: for messages.

    Raises:
        InputError: there is none, or it is not one that was uploaded.
    """
    path = value.get("path") if isinstance(value, dict) else None
    if value is None or path in (None, ""):
        noun = {"image": "picture", "audio": "recording"}.get(field, field)
        raise InputError(f"There is no {noun} yet: please upload one.", field=field)
    place = _within(path, ())
    if place is None:
        raise _foreign(field)
    return place


def _foreign(field: str) -> InputError:
    return InputError(
        f"{field} is not a file that was uploaded here. Upload it, or give an http(s) address.",
        field=field,
    )


def _described(file: dict[str, Any]) -> dict[str, Any]:
    """What Gradio's clients tell about a file, as far as it has the form that Gradio expects."""
    kinds = {"orig_name": str, "mime_type": str, "size": int}
    kept = {name: file.get(name) for name, kind in kinds.items() if type(file.get(name)) is kind}
    return kept | {"meta": {"_type": "gradio.FileData"}}


def _within(path: Any, folders: Sequence[Path]) -> Path | None:
    """A file, links resolved, if it is one of the uploads or examples, or in one of the folders."""
    if not isinstance(path, str) or not path:
        return None
    try:
        place = Path(path).resolve(strict=True)
        known = any(
            place.is_relative_to(folder.resolve())
            for folder in (Path(get_upload_folder()), EXAMPLES, *folders)
        )
        return place if known and place.is_file() else None
    except (OSError, ValueError, RuntimeError):  # missing, too long, holds NUL, a ring of links
        return None


class Gate:
    """The ASGI application in front of the page's.

    Args:
        app: what is behind.
        page: whose endpoints they are.
        folders: whose files the page shows, and may give back.
        limits: of what an address gives.
    """

    def __init__(
        self,
        app: App,
        page: gr.Blocks,
        folders: Sequence[Path] = (),
        limits: Limits = DOWNLOAD,
    ) -> None:
        self._app, self._page, self._folders, self._limits = app, page, folders, limits
        self._downloads = asyncio.Semaphore(MOST_DOWNLOADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = _CALL.fullmatch(scope.get("path", "")) if scope["type"] == "http" else None
        if match is None or scope["method"] != "POST" or not await self._is_welcome(scope):
            await self._app(scope, receive, send)  # which refuses those who are not welcome
            return
        answer, fetched = _Worded(send), list[Path]()
        try:
            await self._pass_on(match, scope, receive, answer, fetched)
        finally:
            if not answer.is_good:
                self._remove(fetched)

    async def _pass_on(
        self,
        match: re.Match[str],
        scope: Scope,
        receive: Receive,
        send: Send,
        fetched: list[Path],
    ) -> None:
        """Look at a call, and have it answered by what is behind.

        Args:
            match: of `_CALL`.
            fetched: is given each file that comes from an address.
        """
        name = match["name"] or match["run"] or match["api"]
        try:
            body = await _read(receive)
            call = _parse(body)
            if match["run"] and call.get("fn_index") is not None:
                name = None  # the page's own calls outside the queue: their number says which
            names = self._check(
                call, None if name is None else unquote(name), keyed=bool(match["v2"])
            )
            changed = await self._fetch(call, names, fetched)
        except InputError as error:
            await _answer(send, 422, _verdict(error))
            return
        except Exception:
            logger.exception("a call could not be looked at")
            await _answer(send, 422, _verdict(InputError(_FAULT)))
            return
        if changed:
            body = json.dumps(call).encode()
            scope = {**scope, "headers": _with_length(scope["headers"], len(body))}
        await self._app(scope, _replay(body, receive), send)

    async def _is_welcome(self, scope: Scope) -> bool:
        """Whether Gradio lets the caller in, before anything is fetched or found for them."""
        if self._page.auth is None:
            return True
        before = scope["path"].partition("/gradio_api/")[0]
        path = f"{before if before != scope['path'] else ''}/gradio_api/login_check"
        asked = {
            **scope, "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""
        }  # fmt: skip
        status = 0

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def hear(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        await self._app(asked, nothing, hear)
        return status == 200

    def _check(self, call: dict[str, Any], name: str | None, *, keyed: bool) -> Sequence[str]:
        """Refuse a call that does not fit its endpoint.

        Returns:
            The names of its values, as far as they are known.
        """
        endpoints = {
            fn.api_name: fn for fn in self._page.fns.values() if fn.api_visibility != "private"
        }
        if name is None:
            number = call.get("fn_index")
            endpoint = self._page.fns.get(number) if type(number) is int else None
        else:
            endpoint = endpoints.get(name)
        if endpoint is None:
            offered = ", ".join(f"/{each}" for each in endpoints if isinstance(each, str))
            raise InputError(f"There is no such endpoint here. Use one of: {offered}.")
        if keyed:
            self._check_names(call, str(name))
            return ()
        data, inputs = call.get("data"), endpoint.inputs
        shown = [block for block in inputs if not getattr(block, "skip_api", False)]
        if not isinstance(data, list) or len(data) not in (len(inputs), len(shown)):
            raise InputError(
                f"data is not a list of {len(shown)} values, one for each parameter in their "
                "order. See the page about the API."
            )
        return endpoint.input_parameter_names or ()

    def _check_names(self, call: dict[str, Any], name: str) -> None:
        listed = self._named_endpoints[f"/{name}"]["parameters"]
        parameters = {each["parameter_name"]: each for each in listed}
        for given in call:
            if given not in parameters and given not in ("session_hash", "oauth_token"):
                raise InputError(
                    f"{given!r} is not a parameter of /{name}. Its parameters are: "
                    f"{', '.join(parameters)}.",
                    field=given,
                )
        for wanted, each in parameters.items():
            if wanted not in call and not each["parameter_has_default"]:
                raise InputError(f"{wanted} is missing. Give it.", field=wanted)

    @cached_property
    def _named_endpoints(self) -> dict[str, Any]:
        named: dict[str, Any] = self._page.get_api_info()["named_endpoints"]
        return named

    async def _fetch(self, call: dict[str, Any], names: Sequence[str], fetched: list[Path]) -> bool:
        """Put what addresses give in their place, and refuse all other files but uploads.

        Nothing is fetched before all files have been looked at.

        Args:
            names: of the values in the call's data.
            fetched: is given each file that comes from an address.

        Returns:
            Whether the call was changed.
        """
        changed = False
        addresses: list[tuple[str, dict[str, Any], str]] = []
        for count, (field, file) in enumerate(_files(call, "", names)):
            if count == MOST_FILES:
                raise InputError(f"The call names more than {MOST_FILES} files.")
            if not isinstance(file["path"], str):
                raise InputError(f"{field} is not a file. Give a path that is a text.", field=field)
            if not isinstance(file.get("meta", {}), dict):
                raise InputError(f"{field} is not a file as Gradio describes it.", field=field)
            path = _own_address(file["path"])
            if re.match(r"https?:", path, re.IGNORECASE):
                addresses.append((field, file, path))
                continue
            own = _within(path, self._folders)
            if own is None:
                raise _foreign(field)
            if own.is_relative_to(EXAMPLES.resolve()):  # Gradio itself takes uploads alone
                own = Path(save_file_to_cache(own, cache_dir=get_upload_folder()))
            wanted = _described(file) | {"path": str(own)}
            if file != wanted:
                file.clear()
                file.update(wanted)
                changed = True
        for field, file, address in addresses:
            async with self._downloads:
                place = await asyncio.to_thread(self._download, address, field)
            fetched.append(place)
            file.clear()
            file.update(path=str(place), orig_name=place.name, meta={"_type": "gradio.FileData"})
        return changed or bool(addresses)

    def _download(self, url: str, field: str) -> Path:
        name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path.rpartition("/")[2]))[-80:]
        folder = Path(get_upload_folder()) / secrets.token_hex(20)
        folder.mkdir(parents=True)
        place = folder / (name.lstrip(".") or "file")
        self._page.upload_file_set.add(str(place))  # by which Gradio deletes what is old
        try:
            download(url, place, field=field, limits=self._limits)
        except BaseException:
            self._remove([place])
            raise
        return place

    def _remove(self, fetched: Sequence[Path]) -> None:
        """Delete files of a call that is refused."""
        for place in fetched:
            shutil.rmtree(place.parent, ignore_errors=True)
            self._page.upload_file_set.discard(str(place))


def _own_address(path: str) -> str:
    """The place of an upload of which the address here is given, as agents do; else the same."""
    match = re.match(r"https?://[^/?#]+/(?:[^?#]*/)?gradio_api/file=([^?#]+)$", path, re.IGNORECASE)
    place = None if match is None else _within(unquote(match[1]), ())
    return path if place is None else str(place)


def _files(
    value: Any, field: str, names: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that looks like a file in a call, with the name of the parameter that holds it."""
    if isinstance(value, dict):
        if "path" in value:
            yield field or "file", value
            return
        for key, each in value.items():
            if not field and key == "data" and isinstance(each, list):
                for place, one in enumerate(each):
                    yield from _files(one, names[place] if place < len(names) else "file")
            else:
                yield from _files(each, field or str(key))
    elif isinstance(value, list):
        for each in value:
            yield from _files(each, field)


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InputError("The connection ended before the call did. Try again.")
        body += message.get("body", b"")
        if len(body) > MOST_CALL_BYTES:
            raise InputError(
                f"The call is larger than {MOST_CALL_BYTES // 10**6} MB. Upload files first, and "
                "name them in the call."
            )
        if not message.get("more_body", False):
            return body


def _parse(body: bytes) -> dict[str, Any]:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("The call is not JSON that can be read. Send a JSON object.") from error
    if not isinstance(call, dict):
        raise InputError("The call is not a JSON object. Send one.")
    return call


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then what follows it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(key, value) for key, value in headers if key.lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode())]


def _verdict(error: InputError) -> dict[str, Any]:
    """A refusal as Gradio's validators word it, which its clients read."""
    return {
        "detail": [
            {
                "__type__": "validate",
                "is_valid": False,
                "message": str(error),
                "parameter_name": error.field or "call",
            }
        ]
    }


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = _with_length([(b"content-type", b"application/json")], len(body))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Worded:
    """Passes an answer on; of one that tells of a fault of Gradio's, a sentence.

    Attributes:
        is_good: whether an answer has begun that is no refusal.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_fault = False
        self.is_good = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_good = message["status"] < 400
            self._is_fault = message["status"] in (400, 500)
            if self._is_fault:
                return
        if not self._is_fault:
            await self._send(message)
            return
        if not message.get("more_body", False):
            logger.warning("Gradio refused a call: %s", message.get("body", b"")[:1000])
            fault = InputError("The call does not fit this endpoint. See the page about the API.")
            await _answer(self._send, 422, _verdict(fault))
