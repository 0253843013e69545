"""The gate before Gradio: addresses are fetched with limits, other places are never opened."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gradio as gr
import pytest

from omniavatar import InputError
from omniavatar.serving import uploads
from omniavatar.serving.sources import Limits
from omniavatar.serving.uploads import Gate, uploaded_file

CONTENT = b"a picture, say"
OPEN = Limits(most_bytes=1000, seconds=5, private_addresses=True)
CLOSED = Limits(most_bytes=1000, seconds=5)


@pytest.fixture(scope="module")
def server():
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments):
            """Quiet."""

        def do_GET(self):
            inward = self.path == "/inward"
            self.send_response(302 if inward else 200)
            if inward:
                self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            self.wfile.write(CONTENT * (1000 if self.path == "/large" else 1))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


@pytest.fixture(scope="module")
def page():
    with gr.Blocks(analytics_enabled=False) as page:
        image = gr.JSON()
        gr.Button().click(lambda image: image, image, image, api_name="look")
    return page


def call(page, values, *, limits=OPEN, path="/gradio_api/call/look", answer=200):
    """What is behind the gate gets of a call, and the status and JSON that come back."""
    got, sent = [], []

    async def behind(_scope, receive, send):
        got.append(json.loads((await receive())["body"]))
        await send({"type": "http.response.start", "status": answer, "headers": []})
        await send({"type": "http.response.body", "body": b'{"detail": "two\\nlines"}'})

    async def send(message):
        sent.append(message)

    body = values if isinstance(values, bytes) else json.dumps({"data": [values]}).encode()
    parts = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asyncio.run(Gate(behind, page, limits=limits)(scope, receive, send))
    return got, sent[0]["status"], json.loads(sent[1]["body"])


def message(answer):
    (verdict,) = answer["detail"]
    return verdict["message"]


def test_address_is_fetched_into_the_uploads(page, server, folder):
    ((got,), status, _) = call(page, {"path": f"{server}/x/face%20one.png", "meta": {}})
    place = Path(got["data"][0]["path"])
    assert status == 200
    assert place.read_bytes() == CONTENT
    assert place.is_relative_to(folder)
    assert place.name == "face_one.png"
    assert uploaded_file(got["data"][0], field="image") == place
    assert str(place) in page.upload_file_set, "swept like an upload"


@pytest.mark.parametrize(
    ("path", "limits", "told"),
    [("/large", OPEN, "larger"), ("/inward", OPEN, "http"), ("/a", CLOSED, "public internet")],
)
def test_address_that_gives_no_file_is_told_and_leaves_nothing(
    page, server, folder, path, limits, told
):
    got, status, answer = call(page, {"path": f"{server}{path}"}, limits=limits)
    assert (got, status) == ([], 422)
    assert told in message(answer)
    assert not list(folder.rglob("*"))


def test_nothing_is_fetched_for_a_call_that_names_a_foreign_file(page, server, monkeypatch):
    asked = []
    monkeypatch.setattr(uploads, "download", lambda url, *_, **__: asked.append(url))
    files = [{"path": f"{server}/a.png"}, {"path": "/etc/passwd"}]
    got, status, answer = call(page, files)
    assert (got, status, asked) == ([], 422, [])
    assert "not a file that was uploaded here" in message(answer)


@pytest.mark.parametrize("answer", [422, 500, 503])
def test_what_was_fetched_for_a_call_that_is_refused_is_deleted(page, server, folder, answer):
    known = set(page.upload_file_set)
    ((got,), status, _) = call(page, {"path": f"{server}/a.png"}, answer=answer)
    assert status == (422 if answer == 500 else answer)
    assert got["data"][0]["path"].endswith("a.png")
    got, status, _ = call(page, [{"path": f"{server}/a.png"}, {"path": f"{server}/large"}])
    assert (got, status) == ([], 422), "of two addresses the second gives too much"
    assert not list(folder.rglob("*"))
    assert page.upload_file_set == known


def test_only_uploads_are_passed_on_and_links_are_followed_first(page, folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "own.png").write_bytes(CONTENT)
    (folder / "link.png").symlink_to(tmp_path / "secret")
    ((got,), status, _) = call(page, {"path": str(folder / "own.png"), "size": "odd", "x": 1})
    assert (status, got["data"][0]["path"]) == (200, str(folder / "own.png"))
    assert set(got["data"][0]) == {"path", "meta"}
    for path in (tmp_path / "secret", folder / "link.png", folder / ".." / "secret", folder):
        got, status, answer = call(page, {"a": [{"path": str(path)}]})
        assert (got, status) == ([], 422)
        assert "not a file that was uploaded here" in message(answer)
        with pytest.raises(InputError, match="not a file that was uploaded"):
            uploaded_file({"path": str(path)}, field="image")


def test_example_is_passed_on_as_an_upload(page, folder):
    example = uploads.EXAMPLES / "presenter-1.png"
    ((got,), status, _) = call(page, {"path": str(example)})
    place = Path(got["data"][0]["path"])
    assert status == 200
    assert place.is_relative_to(folder)
    assert place.read_bytes() == example.read_bytes()


def test_faults_of_gradio_become_a_sentence(page):
    _, status, answer = call(page, 5, answer=500)
    assert status == 422
    assert "does not fit this endpoint" in message(answer)


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"data": []}', b'{"data": [1, 2]}'])
def test_calls_that_do_not_fit_are_refused(page, body):
    got, status, _ = call(page, body)
    assert (got, status) == ([], 422)


def test_unknown_endpoints_are_told_with_those_there_are(page):
    _, _, answer = call(page, 5, path="/gradio_api/call/nothing")
    assert "/look" in message(answer)


def test_own_address_of_an_upload_is_that_upload(page, folder):
    (folder / "own.png").write_bytes(CONTENT)
    url = f"http://127.0.0.1:7860/gradio_api/file={folder}/own.png"
    ((got,), status, _) = call(page, {"path": url}, limits=CLOSED)
    assert (status, got["data"][0]["path"]) == (200, str(folder / "own.png"))
    elsewhere = f"http://127.0.0.1:7860/gradio_api/file={folder}/../secret"
    got, status, answer = call(page, {"path": elsewhere}, limits=CLOSED)
    assert (got, status) == ([], 422)
    assert "public internet" in message(answer)


def test_refusals_name_the_parameter(page):
    _, _, answer = call(page, {"path": "/etc/passwd"})
    assert message(answer).startswith("image is not a file")


@pytest.mark.parametrize(("status", "fetched"), [(200, True), (401, False)])
def test_nothing_is_fetched_for_those_who_are_not_let_in(page, server, folder, status, fetched):
    asked = []

    async def gradio(scope, receive, send):
        asked.append((scope["method"], scope["path"], (await receive())["body"]))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    body = json.dumps({"data": [{"path": f"{server}/a.png"}]}).encode()

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message):
        """Nobody listens."""

    page.auth = [("ann", "secret")]
    try:
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/call/look", "headers": []}
        asyncio.run(Gate(gradio, page, limits=OPEN)(scope, receive, send))
    finally:
        page.auth = None
    (first, path, _), (second, _, passed_on) = asked
    assert (first, path, second) == ("GET", "/gradio_api/login_check", "POST")
    assert bool(list(folder.rglob("a.png"))) == fetched
    assert (passed_on != body) == fetched
