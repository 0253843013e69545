"""A local request carried out by an endpoint elsewhere, with its progress, into a local MP4.

    runpod:ID               a RunPod serverless endpoint that runs `serving.handler`
    replicate:OWNER/NAME    a model on Replicate made from `deploy/replicate`
    http(s)://...           a Gradio app made from `app.py`, on Hugging Face Spaces or elsewhere

What is lost on the way is asked for again. A job is sent a second time only when the first can not
have arrived, or when its `request_id` lets the worker know it again. An endpoint that can not do
the work hands over to the next one; an input that is refused is refused by all.
"""

import base64
import binascii
import http.client
import json
import mimetypes
import os
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from omniavatar import GenerationRequest, InputError, OmniAvatarError, OutputError, check_output
from omniavatar.serving import sources
from omniavatar.serving.app_options import read_account

RUNPOD_URL = "https://api.runpod.ai/v2"
REPLICATE_URL = "https://api.replicate.com/v1"
ACCOUNT_VARIABLE = "OMNIAVATAR_REMOTE_AUTH"
"""user:password, for apps that ask for one."""

FILES = ("image", "audio")
REFUSED_INPUT = ("invalid_input", "too_large", "download_failed")

WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
LONGEST_WAIT_SECONDS = 60.0
POLL_SECONDS = 1.0
REPLY_SECONDS = 60.0
MOST_RUNPOD_BYTES = 10_000_000
MOST_DATA_URL_BYTES = 250_000
VIDEO_LIMITS = sources.Limits(most_bytes=4_000_000_000, seconds=900, private_addresses=True)


class EndpointError(OmniAvatarError):
    """An endpoint can not carry out the job; another one may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteProgress:
    """What an endpoint tells of a job.

    Attributes:
        endpoint: which one.
        phase: a few words for people.
        fraction: 0 to 1, or None while it is not known.
        remaining_seconds: None while it is not known.
    """

    endpoint: str
    phase: str
    fraction: float | None = None
    remaining_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFinished:
    """The video is on the local disk.

    Attributes:
        endpoint: which one made it.
        path: the MP4.
        answer: what the endpoint says beside the video.
    """

    endpoint: str
    path: Path
    answer: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """A request as an endpoint is to get it: what differs from the defaults, and the files."""

    endpoint: str
    request: GenerationRequest
    unchecked: Mapping[str, Any]
    model: str | None
    request_id: str
    output: Path

    @property
    def values(self) -> dict[str, Any]:
        """The settings, without the files."""
        values = {
            entry.name: getattr(self.request, entry.name)
            for entry in fields(self.request)
            if entry.name not in FILES and getattr(self.request, entry.name) != entry.default
        }
        model = {} if self.model is None else {"model": self.model}
        return {**values, **self.unchecked, **model}

    def told(self, phase: str, **more: Any) -> RemoteProgress:
        return RemoteProgress(endpoint=self.endpoint, phase=phase, **more)


class _Send(Protocol):
    """Has an order carried out; closing the generator cancels the job."""

    def __call__(
        self, order: _Order, address: str, end: float
    ) -> Generator[RemoteProgress, None, dict[str, Any]]: ...


def stream(
    request: GenerationRequest,
    output: Path,
    *,
    endpoints: Sequence[str],
    model: str | None = None,
    seconds: float = 3600.0,
    unchecked: Mapping[str, Any] | None = None,
) -> Generator[RemoteProgress | RemoteFinished, None, None]:
    """Have a video made, and tell each thing as it happens.

    Closing the generator cancels the job.

    Args:
        request: its files are local ones.
        output: where the MP4 goes.
        endpoints: the first that can do the work does it.
        model: checkpoint; None leaves it to the endpoint.
        seconds: longest wait for one endpoint.
        unchecked: settings that win over the request's, and that the endpoint alone looks at.

    Raises:
        InputError: the request is refused.
        EndpointError: no endpoint could carry it out.
        OutputError: the MP4 can not be written.
    """
    senders = [_sender(endpoint) for endpoint in endpoints]
    if not senders:
        raise InputError("No endpoint is given. Use runpod:ID, replicate:OWNER/NAME or http(s)://.")
    check_output(output, request.audio)
    for name in FILES:
        if not getattr(request, name).is_file():
            raise InputError(f"{getattr(request, name)} is not a file. Check the path.", field=name)
    failures = []
    request_id = uuid.uuid4().hex
    for endpoint, (send, address) in zip(endpoints, senders, strict=True):
        order = _Order(
            endpoint=endpoint,
            request=request,
            unchecked=unchecked or {},
            model=model,
            request_id=request_id,
            output=output,
        )
        try:
            answer = yield from send(order, address, time.monotonic() + seconds)
        except EndpointError as error:
            failures.append(str(error) if endpoint in str(error) else f"{endpoint}: {error}")
            yield order.told(
                f"{error} Trying the next endpoint" if endpoint != endpoints[-1] else str(error)
            )
            continue
        yield RemoteFinished(endpoint=endpoint, path=output, answer=answer)
        return
    raise EndpointError(" ".join(failures))


def check_endpoint(endpoint: str) -> None:
    """Refuse what names no endpoint.

    Raises:
        InputError: it does not.
    """
    _sender(endpoint)


def _sender(endpoint: str) -> tuple[_Send, str]:
    """How an endpoint is spoken to, and its address."""
    kind, _, address = endpoint.partition(":")
    if kind == "runpod" and re.fullmatch(r"[\w-]+", address):
        return _by_runpod, address
    if kind == "replicate" and re.fullmatch(r"[\w.-]+/[\w.-]+", address):
        return _by_replicate, address
    if kind in ("http", "https") and address.startswith("//"):
        return _by_gradio, endpoint
    raise InputError(
        f"endpoint is {endpoint!r}. Use runpod:ID, replicate:OWNER/NAME or the http(s):// address "
        "of an app.",
        field="endpoint",
    )


# ---- RunPod


def _by_runpod(
    order: _Order, address: str, end: float
) -> Generator[RemoteProgress, None, dict[str, Any]]:
    api = _Api(
        f"{os.environ.get('RUNPOD_API_URL', RUNPOD_URL)}/{address}", key="RUNPOD_API_KEY", end=end
    )
    files = {name: _base64(getattr(order.request, name)) for name in FILES}
    content = {**order.values, **files, "request_id": order.request_id}
    if len(json.dumps({"input": content})) > MOST_RUNPOD_BYTES:
        raise EndpointError(
            "Picture and recording have more than the 10 MB that RunPod takes in a job. Compress "
            "the recording (MP3, M4A, Opus)."
        )
    yield order.told("Sending the request")
    job = api.call("POST", "/run", {"input": content}, repeatable=True)
    identifier = str(job.get("id"))
    try:
        for status in api.poll(f"/status/{identifier}"):
            state, told = status.get("status"), status.get("output")
            if state == "COMPLETED":
                break
            if state in ("FAILED", "CANCELLED", "TIMED_OUT"):
                raise _runpod_failure(status)
            yield _runpod_progress(order, state, told)
    except (GeneratorExit, KeyboardInterrupt, EndpointError):
        with suppress(OmniAvatarError):
            api.call("POST", f"/cancel/{identifier}", {})
        raise
    if not isinstance(told, dict):
        raise EndpointError("The endpoint's answer has no output: it runs another worker.")
    answer: dict[str, Any] = {key: value for key, value in told.items() if key != "video"}
    answer["platform"] = {k: status[k] for k in ("delayTime", "executionTime") if k in status}
    _store(order, told)
    return answer


def _runpod_progress(order: _Order, state: Any, told: Any) -> RemoteProgress:
    if not isinstance(told, dict) or "phase" not in told:
        waiting = "Waiting for a worker" if state == "IN_QUEUE" else "Starting"
        return order.told(waiting)
    percent = told.get("percent")
    return order.told(
        str(told["phase"]),
        fraction=percent / 100 if isinstance(percent, int | float) else None,
        remaining_seconds=told.get("remaining_seconds"),
    )


def _runpod_failure(status: Mapping[str, Any]) -> OmniAvatarError:
    error, output = status.get("error"), status.get("output")
    code = output.get("code") if isinstance(output, dict) else None
    if isinstance(output, dict) and _refused_by_all(code, output.get("field")):
        return InputError(str(error), field=output.get("field"))
    with suppress(ValueError, TypeError, KeyError):
        error = json.loads(str(error))["error_message"]
    return EndpointError(f"The job ended as {status.get('status')}: {error or 'no reason given'}")


def _refused_by_all(code: Any, field: Any) -> bool:
    """Whether another endpoint would refuse an input as well: one may serve another model, or have
    a bucket for a video that is too large for an answer, which is the fault of no field."""
    return code in REFUSED_INPUT and field is not None and field != "model"


# ---- Replicate


def _by_replicate(
    order: _Order, address: str, end: float
) -> Generator[RemoteProgress, None, dict[str, Any]]:
    api = _Api(
        os.environ.get("REPLICATE_API_URL", REPLICATE_URL), key="REPLICATE_API_TOKEN", end=end
    )
    yield order.told("Sending the request")
    version = (api.call("GET", f"/models/{address}").get("latest_version") or {}).get("id")
    if version is None:
        raise EndpointError(f"{address} has no version on Replicate. Push one with `cog push`.")
    files = {name: _replicate_file(api, getattr(order.request, name)) for name in FILES}
    content = {"version": version, "input": order.values | files}
    try:
        job = api.call("POST", "/predictions", content)
    except EndpointError as error:
        # The platform itself holds settings to the ranges of the predictor's signature.
        refused = re.search(r"status 422: .*?\binput\.(\w+): ([^\\\"]+)", str(error), re.DOTALL)
        if refused and _refused_by_all("invalid_input", refused[1]):
            raise InputError(f"{refused[1]}: {refused[2]}", field=refused[1]) from error
        raise
    identifier = str(job.get("id"))
    try:
        for status in api.poll(f"/predictions/{identifier}"):
            state = status.get("status")
            if state == "succeeded":
                break
            if state in ("failed", "canceled", "aborted"):
                raise _replicate_failure(status)
            lines = re.findall(r"([\d.]+)% (.+)", str(status.get("logs") or ""))
            if lines:
                yield order.told(lines[-1][1], fraction=float(lines[-1][0]) / 100)
            else:
                yield order.told("Waiting for a worker")
    except (GeneratorExit, KeyboardInterrupt, EndpointError):
        with suppress(OmniAvatarError):
            api.call("POST", f"/predictions/{identifier}/cancel", {})
        raise
    output = status.get("output")
    _store(order, {"video_url": output[0] if isinstance(output, list) and output else output})
    return {"platform": dict(status.get("metrics") or {})}


def _replicate_failure(status: Mapping[str, Any]) -> OmniAvatarError:
    error = str(status.get("error") or "no reason given")
    # There is one text only: the predictor puts code and field of a refused input in front of its
    # sentence, and Cog what it says of every error in front of that.
    match = re.search(rf"\b({'|'.join(REFUSED_INPUT)})(?: \((\w+)\))?: (.*)", error, re.DOTALL)
    if match and _refused_by_all(match[1], match[2]):
        return InputError(match[3], field=match[2])
    return EndpointError(f"The prediction ended as {status.get('status')}: {error}")


def _replicate_file(api: "_Api", path: Path) -> str:
    """A small file as a data URL; a larger one is uploaded first."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if path.stat().st_size <= MOST_DATA_URL_BYTES:
        return f"data:{kind};base64,{_base64(path)}"
    boundary = uuid.uuid4().hex
    name = re.sub(r"[^\w.-]", "_", path.name)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="content"; filename="{name}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    form = f"multipart/form-data; boundary={boundary}"
    uploaded = api.call("POST", "/files", body, kind=form, repeatable=True)
    return str(uploaded["urls"]["get"])


# ---- Gradio


def _by_gradio(
    order: _Order, address: str, end: float
) -> Generator[RemoteProgress, None, dict[str, Any]]:
    from gradio_client import handle_file

    yield order.told("Connecting")
    client = _retried(lambda: _client(address), f"{address} can not be reached")
    files = {name: handle_file(getattr(order.request, name)) for name in FILES}
    with _gradio_faults():
        job = client.submit(**order.values, **files, api_name="/generate")
    try:
        while not job.done():
            if time.monotonic() > end:
                raise EndpointError("The app takes longer than the time that was given.")
            status = job.status()
            unit = status.progress_data[0] if status.progress_data else None
            if unit is not None and unit.desc:
                yield order.told(unit.desc, fraction=unit.progress)
            else:
                yield order.told("Waiting for the app")
            time.sleep(min(POLL_SECONDS, 0.25))
    except (GeneratorExit, KeyboardInterrupt, EndpointError):
        job.cancel()
        raise
    with _gradio_faults():
        video, settings = job.result()
        content = Path(video["video"] if isinstance(video, dict) else video).read_bytes()
    _write(order, content)
    return {"settings": settings}


def _client(address: str) -> Any:
    """Gradio's client, logged in where the app asks for a password."""
    from gradio_client import Client
    from gradio_client.exceptions import AuthenticationError

    try:
        return Client(address, verbose=False)
    except AuthenticationError as error:
        given = os.environ.get(ACCOUNT_VARIABLE)
        if not given:
            raise EndpointError(
                f"The app asks for a password. Put user:password in {ACCOUNT_VARIABLE}."
            ) from error
    try:
        return Client(address, verbose=False, auth=read_account(given, ACCOUNT_VARIABLE))
    except ValueError as error:  # of several kinds, by how the app refuses
        raise EndpointError(
            f"The app refuses the name and password in {ACCOUNT_VARIABLE}."
        ) from error


@contextmanager
def _gradio_faults() -> Iterator[None]:
    """The client's errors, which are those of all its libraries, as one of ours."""
    from gradio_client.exceptions import ValidationError

    try:
        yield
    except ValidationError as error:  # refused before any work: "1 parameter(s) ...\n- image: ..."
        refused = re.search(r"^- (\w+): (.+)", str(error), re.MULTILINE)
        if refused and _refused_by_all("invalid_input", refused[1]):
            raise InputError(refused[2], field=refused[1]) from error
        raise EndpointError(f"The app refused: {error}") from error
    except Exception as error:
        raise EndpointError(
            f"The app did not make it: {str(error) or type(error).__name__}"
        ) from error


def _retried(connect: Any, told: str) -> Any:
    for wait in (*WAITS_SECONDS, None):
        try:
            return connect()
        except OmniAvatarError:
            raise  # nothing that passes
        except Exception as error:  # the client raises what its libraries raise
            if wait is None:
                raise EndpointError(f"{told} ({error}).") from error
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


# ---- HTTP


class _Api:
    """JSON over HTTP, which asks again for what was lost.

    Args:
        url: in front of all paths.
        key: environment variable of the key.
        end: when to give up, in `time.monotonic`.
    """

    def __init__(self, url: str, *, key: str, end: float) -> None:
        if not os.environ.get(key):
            raise EndpointError(f"{key} is not set. Put the key of the endpoint's account in it.")
        self._url, self._key, self._end = url.rstrip("/"), key, end

    def call(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | bytes | None = None,
        *,
        kind: str = "application/json",
        repeatable: bool = False,
    ) -> dict[str, Any]:
        """One request.

        Args:
            repeatable: whether a POST that may have arrived can be sent again. One that can not
                have arrived always is, and so is every GET.

        Raises:
            EndpointError: it fails in a way that lasts.
        """
        body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        headers = {
            "Authorization": f"Bearer {os.environ[self._key]}",
            "Content-Type": kind,
            "User-Agent": "omniavatar",
        }
        for wait in (*WAITS_SECONDS, None):
            request = urllib.request.Request(self._url + path, body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=REPLY_SECONDS) as reply:
                    found = json.loads(reply.read() or b"{}")
                    return found if isinstance(found, dict) else {}
            except urllib.error.HTTPError as error:
                problem, pause = self._refused(error, again=repeatable or method == "GET")
            except (OSError, http.client.HTTPException, ValueError) as error:
                if not (repeatable or method == "GET" or _never_sent(error)):
                    raise EndpointError(
                        f"The connection was lost, and the job may have begun ({error})."
                    ) from error
                problem, pause = f"no answer ({error})", None
            if wait is None or time.monotonic() > self._end:
                raise EndpointError(f"{self._url.split('/')[2]} gives {problem}.")
            time.sleep(min(max(wait, pause or 0.0), LONGEST_WAIT_SECONDS))
        raise AssertionError("the last attempt returns or raises")

    def poll(self, path: str) -> Iterator[dict[str, Any]]:
        """What a job's status is, again and again.

        Raises:
            EndpointError: as `call` does, or the time is over.
        """
        while True:
            yield self.call("GET", path)
            if time.monotonic() > self._end:
                raise EndpointError("The job takes longer than the time that was given.")
            time.sleep(POLL_SECONDS)

    def _refused(self, error: urllib.error.HTTPError, *, again: bool) -> tuple[str, float | None]:
        """What to say of a status that may pass, and how long the server asks to wait."""
        with closing(error):
            said = error.read(500).decode(errors="replace").strip()
        if error.code in (401, 403):
            raise EndpointError(f"The endpoint refuses the key in {self._key}.") from error
        if error.code == 404:
            raise EndpointError(
                "There is no such endpoint, or it has forgotten the job."
            ) from error
        passes = error.code == 429 or error.code == 503 or (again and error.code >= 500)
        if not passes:
            raise EndpointError(f"The endpoint answers with status {error.code}: {said}") from error
        pause = error.headers.get("Retry-After", "")
        return f"status {error.code}", float(pause) if pause.isdigit() else None


def _never_sent(error: Exception) -> bool:
    """Whether a request can not have reached the server: no connection was made."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, ConnectionRefusedError) or type(reason).__name__ == "gaierror"


# ---- files


def _base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise InputError(f"{path} can not be read: {error.strerror}.") from error


def _store(order: _Order, told: Mapping[str, Any]) -> None:
    """Write the video of an answer, which is there or at an address."""
    if isinstance(told.get("video"), str):
        try:
            _write(order, base64.b64decode(told["video"], validate=True))
        except binascii.Error as error:
            raise EndpointError("The endpoint's answer holds a damaged video.") from error
        return
    address = told.get("video_url")
    if not isinstance(address, str):
        raise EndpointError("The endpoint's answer has no video: it runs another worker.")
    part = _part(order.output)
    try:
        sources.download(address, part, field="video_url", limits=VIDEO_LIMITS)
        _write(order, part.read_bytes())
    except InputError as error:
        raise EndpointError(str(error)) from error
    finally:
        part.unlink(missing_ok=True)


def _write(order: _Order, content: bytes) -> None:
    if content[4:8] != b"ftyp":
        raise EndpointError("The endpoint's answer is no MP4: it runs another worker.")
    part = _part(order.output)
    try:
        part.write_bytes(content)
        part.replace(order.output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"{order.output} could not be written: {error.strerror}. Use another place."
        ) from error


def _part(output: Path) -> Path:
    return output.with_name(f".{output.name}.part")
