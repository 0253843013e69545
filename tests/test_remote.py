"""The client of the three kinds of endpoint, against servers that fail as real ones do."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gradio
import pytest
from app_process import running_app, write_portrait, write_voice
from job_api import job_api, running_worker

from omniavatar import (
    GenerationRequest,
    InputError,
    OmniAvatarError,
    OutputError,
    read_settings,
)
from omniavatar.serving import cli, remote
from omniavatar.serving.remote import EndpointError, RemoteFinished, RemoteProgress, stream

VIDEO = b"\0\0\0\x20ftypisom" + bytes(2000)
QUICK = {"steps": 1, "guidance": 1.0}


class Service:
    """Answers from a list, one for each request; what was asked is kept."""

    def __init__(self):
        self.asked = []
        self.answers = {}

    def reply(self, method, path, body):
        self.asked.append((method, path, body))
        for (wanted, start), answers in self.answers.items():
            if wanted == method and path.startswith(start):
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                return answer(body) if callable(answer) else answer
        return 404, {}

    def posts(self, path):
        return [body for method, asked, body in self.asked if (method, asked) == ("POST", path)]


@pytest.fixture
def service(monkeypatch):
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments):
            """Quiet."""

        def _answer(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if self.headers.get("Content-Type") == "application/json" and body:
                body = json.loads(body)
            answer = service.reply(self.command, self.path, body)
            if answer is None:  # the connection is lost
                self.close_connection = True
                return
            status, content = answer
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    for name in ("RUNPOD", "REPLICATE"):
        monkeypatch.setenv(f"{name}_API_URL", service.url)
    monkeypatch.setenv("RUNPOD_API_KEY", "key")
    monkeypatch.setenv("REPLICATE_API_TOKEN", "key")
    monkeypatch.setattr(remote, "WAITS_SECONDS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.01)
    yield service
    server.shutdown()
    server.server_close()


@pytest.fixture
def request_(tmp_path):
    return GenerationRequest(
        image=write_portrait(tmp_path / "portrait.png"),
        audio=write_voice(tmp_path / "voice.wav", 0.4),
        seed=7,
        steps=3,
    )


def finish(request, output, *endpoints):
    *told, last = stream(request, output, endpoints=endpoints)
    assert isinstance(last, RemoteFinished)
    assert all(isinstance(event, RemoteProgress) for event in told)
    return told, last


def completed(**output):
    return 200, {"status": "COMPLETED", "output": output, "executionTime": 1234}


def in_progress(percent, phase="Part 1 of 1"):
    told = {"phase": phase, "percent": percent, "remaining_seconds": 3.0}
    return 200, {"status": "IN_PROGRESS", "output": told}


GOOD = completed(video=base64.b64encode(VIDEO).decode(), frames=10)


def test_runpod_job_is_sent_followed_and_written(service, request_, tmp_path):
    service.answers = {
        ("POST", "/ab12/run"): [(200, {"id": "j1", "status": "IN_QUEUE"})],
        ("GET", "/ab12/status/j1"): [
            (200, {"status": "IN_QUEUE"}), in_progress(10.0), (502, {}), in_progress(60.0), GOOD
        ],
    }  # fmt: skip
    output = tmp_path / "out.mp4"
    told, last = finish(request_, output, "runpod:ab12")
    assert output.read_bytes() == VIDEO
    assert last.answer["frames"] == 10
    assert [event.fraction for event in told if event.fraction is not None] == [0.1, 0.6]
    sent = service.posts("/ab12/run")[0]["input"]
    assert base64.b64decode(sent.pop("image")) == request_.image.read_bytes()
    assert base64.b64decode(sent.pop("audio")) == request_.audio.read_bytes()
    assert sent.pop("request_id")
    assert sent == {"seed": 7, "steps": 3}, "what is left at its default is not sent"
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_lost_answer_is_asked_for_again_with_the_same_id(service, request_, tmp_path):
    service.answers = {
        ("POST", "/ab12/run"): [None, (503, {}), (429, {}), (200, {"id": "j1"})],
        ("GET", "/ab12/status/j1"): [None, GOOD],
    }
    finish(request_, tmp_path / "out.mp4", "runpod:ab12")
    ids = {body["input"]["request_id"] for body in service.posts("/ab12/run")}
    assert len(service.posts("/ab12/run")) == 4
    assert len(ids) == 1


def test_video_at_an_address_is_loaded(service, request_, tmp_path):
    service.answers = {
        ("POST", "/ab12/run"): [(200, {"id": "j1"})],
        ("GET", "/ab12/status/j1"): [completed(video_url=f"{service.url}/bucket/v.mp4")],
        ("GET", "/bucket/v.mp4"): [(200, VIDEO)],
    }
    finish(request_, tmp_path / "out.mp4", "runpod:ab12")
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO


def test_refused_input_is_told_and_no_other_endpoint_is_asked(service, request_, tmp_path):
    failed = {
        "status": "FAILED",
        "error": "audio is larger than 50 MB.",
        "output": {"code": "too_large", "field": "audio"},
    }
    service.answers = {
        ("POST", "/ab12/run"): [(200, {"id": "j1"})],
        ("GET", "/ab12/status/j1"): [(200, failed)],
    }
    with pytest.raises(InputError, match="larger") as error:
        finish(request_, tmp_path / "out.mp4", "runpod:ab12", "runpod:other")
    assert error.value.field == "audio"
    assert not service.posts("/other/run")


def refused(code, field):
    return 200, {"status": "FAILED", "error": "no", "output": {"code": code, "field": field}}


@pytest.mark.parametrize(
    "first",
    [
        {
            ("POST", "/bad/run"): [(200, {"id": "j0"})],  # it serves another model
            ("GET", "/bad/status"): [refused("invalid_input", "model")],
        },
        {
            ("POST", "/bad/run"): [(200, {"id": "j0"})],  # it has no bucket for the video
            ("GET", "/bad/status"): [refused("too_large", None)],
        },
        {
            ("POST", "/bad/run"): [(200, {"id": "j0"})],
            ("GET", "/bad/status"): [refused("out_of_memory", None)],
        },
        {
            ("POST", "/bad/run"): [(200, {"id": "j0"})],
            ("GET", "/bad/status"): [(200, {"status": "FAILED", "error": "{}"})],
        },
        {("POST", "/bad/run"): [(401, {})]},
        {("POST", "/bad/run"): [(404, {})]},
        {("POST", "/bad/run"): [(500, {})]},
        {("POST", "/bad/run"): [(200, {"id": "j0"})], ("GET", "/bad/status"): [(404, {})]},
        {
            ("POST", "/bad/run"): [(200, {"id": "j0"})],
            ("GET", "/bad/status"): [
                (200, {"status": "FAILED", "error": '{"error_message": "cosmic ray"}'})
            ],
        },
        {("POST", "/bad/run"): [(200, {"id": "j0"})], ("GET", "/bad/status"): [completed(x=1)]},
        {
            ("POST", "/bad/run"): [(200, {"id": "j0"})],
            ("GET", "/bad/status"): [completed(video="AAAA")],
        },
    ],
)  # fmt: skip
def test_next_endpoint_stands_in(first, service, request_, tmp_path):
    service.answers = {
        **first,
        ("POST", "/good/run"): [(200, {"id": "j1"})],
        ("GET", "/good/status/j1"): [GOOD],
    }
    _, last = finish(request_, tmp_path / "out.mp4", "runpod:bad", "runpod:good")
    assert last.endpoint == "runpod:good"


def test_all_failures_are_told_when_no_endpoint_works(service, request_, tmp_path, monkeypatch):
    service.answers = {("POST", "/bad/run"): [(401, {})]}
    monkeypatch.delenv("REPLICATE_API_TOKEN")
    with pytest.raises(EndpointError, match=r"runpod:bad: .*key.* replicate:a/b: .*TOKEN"):
        finish(request_, tmp_path / "out.mp4", "runpod:bad", "replicate:a/b")
    assert not (tmp_path / "out.mp4").exists()


def test_closing_cancels_the_job(service, request_, tmp_path):
    service.answers = {
        ("POST", "/ab12/run"): [(200, {"id": "j1"})],
        ("GET", "/ab12/status/j1"): [in_progress(10.0)],
        ("POST", "/ab12/cancel/j1"): [(200, {})],
    }
    work = stream(request_, tmp_path / "out.mp4", endpoints=["runpod:ab12"])
    while next(work).fraction is None:
        pass
    work.close()
    assert len(service.posts("/ab12/cancel/j1")) == 1


def test_job_that_takes_too_long_is_cancelled(service, request_, tmp_path):
    service.answers = {
        ("POST", "/ab12/run"): [(200, {"id": "j1"})],
        ("GET", "/ab12/status/j1"): [in_progress(10.0)],
        ("POST", "/ab12/cancel/j1"): [(200, {})],
    }
    with pytest.raises(EndpointError, match="longer"):
        list(stream(request_, tmp_path / "o.mp4", endpoints=["runpod:ab12"], seconds=0.2))
    assert len(service.posts("/ab12/cancel/j1")) == 1


def test_replicate_prediction_is_made_and_loaded(service, request_, tmp_path):
    large = tmp_path / "large.wav"
    large.write_bytes(request_.audio.read_bytes() + bytes(300_000))
    request = GenerationRequest(image=request_.image, audio=large, seed=7)
    service.answers = {
        ("GET", "/models/me/avatar"): [(200, {"latest_version": {"id": "v1"}})],
        ("POST", "/files"): [None, (200, {"urls": {"get": "https://files/1"}})],
        ("POST", "/predictions"): [(200, {"id": "p1"})],
        ("GET", "/predictions/p1"): [
            (200, {"status": "starting", "logs": ""}),
            (200, {"status": "processing", "logs": "10.0% Part 1 of 2\n55.5% Part 2 of 2\n"}),
            (200, {"status": "succeeded", "output": f"{service.url}/v.mp4", "metrics": {}}),
        ],
        ("GET", "/v.mp4"): [(200, VIDEO)],
    }  # fmt: skip
    told, _ = finish(request, tmp_path / "out.mp4", "replicate:me/avatar")
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO
    assert (told[-1].phase, told[-1].fraction) == ("Part 2 of 2", 0.555)
    (sent,) = service.posts("/predictions")
    assert sent["version"] == "v1"
    assert sent["input"]["image"].startswith("data:image/png;base64,")
    assert sent["input"]["audio"] == "https://files/1"
    assert sent["input"]["seed"] == 7


def test_prediction_that_may_have_begun_is_not_sent_twice(service, request_, tmp_path):
    service.answers = {
        ("GET", "/models/me/avatar"): [(200, {"latest_version": {"id": "v1"}})],
        ("POST", "/predictions"): [None],
    }
    with pytest.raises(EndpointError, match="may have begun"):
        finish(request_, tmp_path / "out.mp4", "replicate:me/avatar")
    assert len(service.posts("/predictions")) == 1


@pytest.mark.parametrize("before", ["", "Prediction failed: Prediction failed: ValueError: "])
def test_prediction_that_refuses_its_input_says_so(before, service, request_, tmp_path):
    service.answers = {
        ("GET", "/models/me/avatar"): [(200, {"latest_version": {"id": "v1"}})],
        ("POST", "/predictions"): [(200, {"id": "p1"})],
        ("GET", "/predictions/p1"): [
            (
                200,
                {"status": "failed", "error": f"{before}invalid_input (image): image is damaged."},
            )
        ],
    }
    with pytest.raises(InputError, match=r"^image is damaged") as error:
        finish(request_, tmp_path / "out.mp4", "replicate:me/avatar")
    assert error.value.field == "image"


def test_setting_that_the_platform_itself_refuses_says_so(service, request_, tmp_path):
    """As Replicate does for a range of the predictor's signature."""
    detail = "- input.steps: Must be less than or equal to 100\n"
    title = {"title": "Input validation failed", "status": 422}
    service.answers = {
        ("GET", "/models/me/avatar"): [(200, {"latest_version": {"id": "v1"}})],
        ("POST", "/predictions"): [(422, {"detail": detail, **title})],
    }
    with pytest.raises(InputError, match=r"^steps: Must be less than or equal to 100$") as error:
        finish(request_, tmp_path / "out.mp4", "replicate:me/avatar", "runpod:other")
    assert error.value.field == "steps"
    assert not service.posts("/other/run")


@pytest.mark.parametrize("endpoint", ["runpod:", "replicate:me", "ftp://a", "gradio", "runpod:a/b"])
def test_other_endpoints_are_refused(endpoint, request_, tmp_path):
    with pytest.raises(InputError, match="runpod:ID"):
        finish(request_, tmp_path / "out.mp4", endpoint)


def test_absent_file_is_told_before_sending(service, request_, tmp_path):
    absent = GenerationRequest(image=tmp_path / "absent.png", audio=request_.audio)
    with pytest.raises(InputError, match=r"absent\.png") as error:
        finish(absent, tmp_path / "out.mp4", "runpod:ab12", "replicate:a/b")
    assert error.value.field == "image"
    assert not service.asked


@pytest.mark.parametrize("place", ["absent/out.mp4", "."])
def test_place_that_can_not_be_written_to_is_told_before_sending(
    place, service, request_, tmp_path
):
    with pytest.raises(OutputError):
        finish(request_, tmp_path / place, "runpod:ab12")
    assert not service.asked


def test_settings_that_nobody_has_checked_are_sent_as_they_are(service, request_, tmp_path):
    service.answers = {
        ("POST", "/ab12/run"): [(200, {"id": "j1"})],
        ("GET", "/ab12/status/j1"): [GOOD],
    }
    output, wrong = tmp_path / "out.mp4", {"steps": 1000, "overlap_frames": 12}
    list(stream(request_, output, endpoints=["runpod:ab12"], unchecked=wrong))
    sent = service.posts("/ab12/run")[0]["input"]
    assert wrong.items() <= sent.items()
    assert sent["seed"] == 7


# ---- the real things


def test_command_line_reaches_a_real_worker(service, tmp_path, monkeypatch, capsys):
    """`remote` to the platform's API, that to the SDK's worker loop, and back."""
    write_portrait(tmp_path / "portrait.png")
    write_voice(tmp_path / "voice.wav", 0.4)
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.2)
    monkeypatch.chdir(tmp_path)
    with job_api() as api, running_worker(api, tmp_path):
        shown_so_far: list[dict[str, object]] = []

        def start(body):
            api.put("j1", **body["input"])
            return 200, {"id": "j1", "status": "IN_QUEUE"}

        def status(_body):
            # Everything that the worker said, one thing at a time: a slow poll misses none of it.
            said = [output for _, output in api.progress["j1"]]
            if len(shown_so_far) < len(said):
                shown_so_far.append(said[len(shown_so_far)])
                return 200, {"status": "IN_PROGRESS", "output": shown_so_far[-1]}
            if api.results["j1"]:
                result = api.results["j1"][0]
                return 200, {"status": "FAILED" if "error" in result else "COMPLETED", **result}
            return 200, {"status": "IN_QUEUE"}

        service.answers = {("POST", "/ab12/run"): [start], ("GET", "/ab12/status/j1"): [status]}
        words = "remote portrait.png voice.wav --endpoint runpod:ab12 --steps 1 --guidance 1"
        assert cli.main(f"{words} --output talk.mp4".split()) == 0
        shown = capsys.readouterr()
        assert shown.out == "talk.mp4\n"
        assert "Part 1 of 1" in shown.err
        assert read_settings(tmp_path / "talk.mp4")["steps"] == 1
        api.results["j1"].clear()
        assert cli.main(f"{words} --model 14B --output other.mp4".split()) == 2
        assert "serves 'nano'" in capsys.readouterr().err
        assert not Path("other.mp4").exists()


def test_gradio_app_makes_the_video(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "client"))
    request = GenerationRequest(
        image=write_portrait(tmp_path / "portrait.png"),
        audio=write_voice(tmp_path / "voice.wav", 0.4),
        **QUICK,
    )
    with running_app(tmp_path) as app:
        _, last = finish(request, tmp_path / "out.mp4", app.url)
        assert read_settings(tmp_path / "out.mp4")["steps"] == 1
        assert last.answer["settings"]["steps"] == 1
        (tmp_path / "broken.png").write_bytes(b"no picture")
        broken = GenerationRequest(image=tmp_path / "broken.png", audio=request.audio)
        with pytest.raises(InputError, match="not a picture") as error:
            finish(broken, tmp_path / "broken.mp4", app.url, "http://127.0.0.1:1")
        assert error.value.field == "image"
        wrong = {"steps": 1000}
        with pytest.raises(InputError, match="1 to 100"):
            list(stream(request, tmp_path / "w.mp4", endpoints=[app.url], unchecked=wrong))
        long = GenerationRequest(
            image=request.image, audio=write_voice(tmp_path / "long.wav", 30.0), guidance=1.0
        )
        work = stream(long, tmp_path / "long.mp4", endpoints=[app.url])
        while next(work).fraction is None:
            pass
        app.process.kill()  # as when a machine is taken away
        with pytest.raises(EndpointError, match="did not make it"):
            list(work)
        assert not (tmp_path / "long.mp4").exists()


def test_app_of_others_is_told_and_the_next_endpoint_stands_in(service, request_, tmp_path):
    service.answers = {
        ("POST", "/good/run"): [(200, {"id": "j1"})],
        ("GET", "/good/status/j1"): [GOOD],
    }
    other = gradio.Interface(lambda text: text, "text", "text")
    _, address, _ = other.launch(prevent_thread_lock=True, quiet=True)
    try:
        told, last = finish(request_, tmp_path / "out.mp4", address, "runpod:good")
    finally:
        other.close()
    assert last.endpoint == "runpod:good"
    assert any("/generate" in event.phase for event in told)


@pytest.fixture(scope="module")
def app_with_password(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    made = folder / "made.mp4"
    made.write_bytes(VIDEO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        with gradio.Blocks(analytics_enabled=False) as app:
            files, told = [gradio.File(), gradio.File()], [gradio.File(), gradio.JSON()]
            gradio.Button().click(
                lambda image, audio: (str(made), [image, audio]), files, told, api_name="generate"
            )
        _, address, _ = app.launch(auth=("ann", "a:b"), prevent_thread_lock=True, quiet=True)
        yield address
        app.close()


@pytest.fixture
def plain_request(request_):
    return GenerationRequest(image=request_.image, audio=request_.audio)


def test_app_with_a_password_is_given_it(app_with_password, plain_request, tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIAVATAR_REMOTE_AUTH", "ann:a:b")
    finish(plain_request, tmp_path / "out.mp4", app_with_password)
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, r"asks for a password\. Put user:password in OMNIAVATAR_REMOTE_AUTH"),
        ("ann:secret", "refuses the name and password in OMNIAVATAR_REMOTE_AUTH"),
        ("secret", "OMNIAVATAR_REMOTE_AUTH is not a name and a password"),
    ],
)
def test_password_that_is_missing_or_wrong_is_told_at_once(
    given, told, app_with_password, plain_request, tmp_path, monkeypatch
):
    monkeypatch.setattr(remote, "WAITS_SECONDS", ("nothing waits",))
    monkeypatch.delenv("OMNIAVATAR_REMOTE_AUTH", raising=False)
    if given is not None:
        monkeypatch.setenv("OMNIAVATAR_REMOTE_AUTH", given)
    with pytest.raises(OmniAvatarError, match=told) as error:
        finish(plain_request, tmp_path / "out.mp4", app_with_password)
    assert "secret" not in str(error.value)
