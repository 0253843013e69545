"""200 hostile uploads and calls: each gets one sentence or is taken, and the server still serves.

What is fuzzed is so from fixed seeds. A damaged file that can still be read, as a viewer or player
would, is allowed to be; nothing else is.
"""

import io
import json
import struct
import wave
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from app_process import running_app, write_portrait, write_voice
from media_files import ffmpeg
from PIL import Image

SEED = 7
FOLDER = "{folder}"  # in a path: where the app was started
LONGEST = 600  # characters of a sentence that a person reads


@dataclass(frozen=True)
class Attack:
    """One call.

    Attributes:
        values: of the endpoint's parameters; bytes are uploaded, under the name beside them.
        raw: the body as it is, in place of `values`.
        may_work: whether it may also be taken.
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    endpoint: str = "preflight"
    raw: bytes | None = None
    url: str | None = None
    may_work: bool = False


def file(content, name):
    return (content, name)


# ---- good files to be damaged


def picture(kind="PNG", **options):
    data = io.BytesIO()
    pixels = np.random.default_rng(SEED).integers(0, 256, (48, 40, 3), np.uint8)
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def sound(folder, kind):
    if not (folder / f"good.{kind}").exists():
        ffmpeg("-i", folder / "voice.wav", folder / f"good.{kind}")
    return (folder / f"good.{kind}").read_bytes()


def damaged(content, seed):
    """Some bytes overwritten, some cut out, or the end missing."""
    rng = np.random.default_rng(seed)
    data = bytearray(content)
    match seed % 3:
        case 0:
            for place in rng.integers(0, len(data), 1 + len(data) // 60):
                data[place] = rng.integers(0, 256)
        case 1:
            start = int(rng.integers(4, len(data) - 4))
            del data[start : start + int(rng.integers(1, 200))]
        case 2:
            del data[int(rng.integers(1, len(data) - 1)) :]
    return bytes(data)


def png_chunks(width, height, *more):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in [(b"IHDR", header), *more])


def wav(samples=b"\0\0" * 800, *, channels=1, rate=16000, width=2):
    data = io.BytesIO()
    with wave.open(data, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(samples)
    return data.getvalue()


def zipped(entries, **options):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content, **options)
    return data.getvalue()


# ---- the attacks


def pictures() -> Iterator[Attack]:
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
    for number in range(35):
        kind = kinds[number % len(kinds)]
        content = damaged(picture(kind), number)
        yield Attack(f"{kind} {number}", {"image": file(content, f"a.{kind}")}, may_work=True)
    idat = (b"IDAT", zlib.compress(bytes(1000)))
    frames = [Image.new("P", (9, 9), n) for n in range(200)]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(turned, "JPEG", exif=exif)
    cmyk, deep, floats = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("CMYK", (30, 20)).save(cmyk, "JPEG")
    Image.fromarray(np.zeros((30, 20), np.uint16)).save(deep, "PNG")
    Image.new("F", (4, 4)).save(floats, "TIFF")
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b"\x2c"
    taken = {"animation": animated, "turned": turned, "print": cmyk, "16 bits": deep}
    for name, data in taken.items():
        yield Attack(f"picture {name}", {"image": file(data.getvalue(), "a.png")}, may_work=True)
    refused = {
        "empty": b"",
        "text": b"hello",
        "zeros": bytes(5000),
        "signature": b"\x89PNG\r\n\x1a\n",
        "bomb": png_chunks(60000, 60000, idat),
        "larger bomb": png_chunks(2**31 - 1, 2**31 - 1, idat),
        "no pixels": png_chunks(0, 0, idat),
        "text bomb": png_chunks(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(90_000_000)))),
        "wide GIF": gif,
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n",
        "pdf": b"%PDF-1.7\n",
        "program": b"\x7fELF" + bytes(200),
        "html": b"<html><script>alert(1)</script>",
        "32 bits": floats.getvalue(),
        "phone": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(200),
        "icon": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\4\0\0\x16\0\0\0" + bytes(1128),
        "sound": wav(),
    }
    for name, content in refused.items():
        yield Attack(f"picture {name}", {"image": file(content, "a.png")})
    for name in (
        "../../a.png",
        "a\0b.png",
        "x" * 300 + ".png",
        "<script>.png",
        "%2e%2e.png",
        "con",
    ):
        yield Attack(f"name {name[:20]!r}", {"image": file(b"hello", name)})


def recordings(folder) -> Iterator[Attack]:
    kinds = ("wav", "mp3", "flac", "ogg", "m4a", "webm")
    for number in range(30):
        kind = kinds[number % len(kinds)]
        content = damaged(sound(folder, kind), number)
        yield Attack(f"{kind} {number}", {"audio": file(content, f"a.{kind}")}, may_work=True)
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", folder / "silent.mp4")
    numbers = np.full(1600, np.nan, "<f4").tobytes()
    ffmpeg(*("-f", "f32le", "-ar", "16000", "-ac", "1", "-i", "-"), "-c:a", "pcm_f32le",
           folder / "nan.wav", stdin=numbers)  # fmt: skip
    times = np.arange(1600) / 1600
    tone = np.stack([np.sin(times * 900), -np.sin(times * 900)], 1) * 1e9
    ffmpeg(*("-f", "f32le", "-ar", "16000", "-ac", "2", "-i", "-"), "-c:a", "pcm_f32le",
           folder / "loud.wav", stdin=tone.astype("<f4").tobytes())  # fmt: skip
    for name, content in {
        "one": wav(b"\1\0"),
        "slow": wav(rate=1),
        "fast": wav(rate=700_000),
    }.items():
        yield Attack(f"recording {name}", {"audio": file(content, "a.wav")}, may_work=True)
    refused = {
        "empty": b"",
        "text": b"no music in here",
        "zeros": bytes(100_000),
        "noise": np.random.default_rng(SEED).bytes(100_000),
        "picture": picture(),
        "video without sound": (folder / "silent.mp4").read_bytes(),
        "not numbers": (folder / "nan.wav").read_bytes(),
        "a thousand million times too loud": (folder / "loud.wav").read_bytes(),
        "no samples": wav(b""),
        "sixty channels": wav(bytes(12000), channels=60),
        "header alone": b"RIFF\xff\xff\xff\xffWAVEfmt ",
        "playlist": b"#EXTM3U\n#EXTINF:3,\nfile:///etc/passwd\n",
        "list": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "address list": b"#EXTM3U\n#EXTINF:3,\nhttp://127.0.0.1:1/a.mp3\n",
        "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    }
    for name, content in refused.items():
        yield Attack(f"recording {name}", {"audio": file(content, "a.mp3")})


def settings() -> Iterator[Attack]:
    bad = [
        *(("steps", v) for v in (0, -1, 2.5, 10**30, "many", [], {}, True)),
        *(("guidance", v) for v in (float("nan"), float("inf"), -float("inf"), "1e999", [1.0])),
        *(("seed", v) for v in (None, -1, 2**31, "", {"a": 1})),
        *(("aspect", v) for v in ("round", 3, [], None, {})),
        *(("fit", v) for v in ("stretch", ["cover"])),
        *(("focus_x", v) for v in (1.5, "left")),
        *(("audio_start", v) for v in (-1, 1e9, 100.0, "a")),
        *(("audio_seconds", v) for v in (0, float("nan"))),
        *(("prompt", v) for v in (7, ["a"], {"b": "c"})),
        ("overlap_frames", 12),
        ("max_tokens", 1),
        ("silence_seconds", 1e300),
        ("cache_third_pass", "perhaps"),
        *(("model", v) for v in ("huge", None, {}, ["nano"], "../nano", 5)),
        ("steeps", 4),
        ("__class__", "x"),
    ]
    for name, value in bad:
        yield Attack(f"{name} {str(value)[:30]}", {name: value})


def places() -> Iterator[Attack]:
    paths = [
        "/etc/passwd", "../../../../etc/passwd", f"{FOLDER}/app.log", f"{FOLDER}/face.png",
        f"{FOLDER}/gradio/../face.png", f"{FOLDER}/gradio/link.png", f"{FOLDER}/gradio",
        "file:///etc/passwd", "/proc/self/environ", "/dev/zero", "C:\\Windows\\win.ini", "",
        "a\0b", "x" * 5000, "~/.ssh/id_rsa", "concat:/etc/passwd", "pipe:0",
        "data:image/png;base64,aGVsbG8=", "ftp://example.com/a.png", "gopher://127.0.0.1/",
        "http://127.0.0.1:1/a.png", "http://localhost/a.png", "http://[::1]/a.png",
        "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://0x7f.1/",
        "http://2130706433/", "http://[::ffff:127.0.0.1]/", "HTTP://LOCALHOST/", "http://",
        "http://a b/", "https://user:pass@127.0.0.1/", "http://127.0.0.1:99999/",
        "http:/etc/passwd",
    ]  # fmt: skip
    for path in paths:
        given = {"path": path, "meta": {"_type": "gradio.FileData"}}
        yield Attack(f"place {path[:40]!r}", {"image": given})
    for odd in (5, "me.png", [], [1], {"path": 5}, {"url": "/etc/passwd"}, {}, None,
                {"path": "/etc/passwd", "meta": 5}, {"path": ["/etc/passwd"]}):  # fmt: skip
        yield Attack(f"odd file {odd}", {"image": odd})


def batches() -> Iterator[Attack]:
    bomb = zipped({"a.png": bytes(1_100_000_000 // 10), "b.png": b"x"})
    tables = {
        "unknown column": b"image,audio,colour\na,b,c\n",
        "no file": b"image,audio\n/etc/passwd,../../x.wav\n",
        "no rows": b"image,audio\n",
        "not text": b"\xff\xfe\x00image",
        "NUL": b"image,audio\na\0,b\n",
        "quotes": b'image,audio\n"a,b\n',
        "twice": b"image,image,audio\na,b,c\n",
        "too many": b"image,audio\n" + b"a,b\n" * 500,
    }
    for name, table in tables.items():
        yield Attack(f"table {name}", {"files": [file(table, "a.csv")]}, "batch", may_work=True)
    broken = zipped({"a.png": picture(), "a.wav": wav()})
    zips = {
        "truncated": broken[: len(broken) // 2],
        "text": b"hello",
        "climbing": zipped({"../../evil.png": b"x", "/etc/evil.wav": b"y"}),
        "many": zipped({f"{n}.png": b"" for n in range(1500)}),
        "bomb": bomb,
        "nested": zipped({"a.zip": bomb[:2000]}),
        "empty": zipped({}),
    }
    for name, content in zips.items():
        yield Attack(f"zip {name}", {"files": [file(content, "a.zip")]}, "batch", may_work=True)
    for odd in (None, [], "a", {"path": "/etc/passwd"}, [{"path": "/etc/passwd"}], [5]):
        yield Attack(f"batch of {odd}", {"files": odd}, "batch")


def others() -> Iterator[Attack]:
    voice = file(wav(), "a.wav")
    for name, values in {
        "silence": {"video": voice, "text": "hello"},
        "no text": {"video": voice, "text": ""},
        "text is a number": {"video": voice, "text": 5},
        "burn is a word": {"video": voice, "text": "a", "burn": "yes"},
        "too long": {"video": voice, "text": "a " * 150_000},
        "no video": {"video": None, "text": "a"},
        "picture": {"video": file(picture(), "a.mp4"), "text": "a", "burn": True},
        "a place": {"video": {"path": "/etc/passwd"}, "text": "a"},
    }.items():
        yield Attack(f"captions {name}", values, "captions")
    for job in ("", "../../etc/passwd", "0" * 32, None, 5, {"a": 1}, "x" * 10_000):
        yield Attack(f"job {str(job)[:20]}", {"job": job}, "job")
        yield Attack(f"cancel {str(job)[:20]}", {"job": job}, "cancel")
    for name, body in {
        "empty": b"",
        "not JSON": b"{",
        "a list": b"[]",
        "deep": b'{"image": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "long": b'{"prompt": "' + b"a" * 5_000_000 + b'"}',
        "binary": bytes(range(256)),
        "no values": b"{}",
        "large number": b'{"steps": ' + b"9" * 5000 + b"}",
    }.items():
        yield Attack(f"body {name}", raw=body)
    for url, body in {
        "call/nothing": {"data": []},
        "call/v2/nothing": {},
        "call/preflight": {"data": []},
        "call/generate": {"data": [None] * 99},
        "call/captions": {"data": {}},
        "queue/join": {"data": [], "fn_index": 10**6, "session_hash": "a"},
        "queue/join?": {"data": [1], "fn_index": 3, "session_hash": "a"},
        "run/predict": {"data": [], "fn_index": 0},
        "queue/join??": {"data": [], "fn_index": [], "session_hash": {}},
    }.items():
        yield Attack(f"call of {url}", url=url.rstrip("?"), raw=json.dumps(body).encode())


# ---- how they are made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    write_portrait(folder / "face.png")
    write_voice(folder / "voice.wav", 0.5)
    (folder / "gradio").mkdir()
    (folder / "gradio" / "link.png").symlink_to("/etc/passwd")
    return folder


@pytest.fixture(scope="module")
def app(folder):
    with running_app(folder) as app:
        yield app


@pytest.fixture(scope="module")
def api(app):
    with httpx.Client(base_url=f"{app.url}gradio_api/", timeout=60) as api:
        api.get("info")  # which Gradio otherwise makes anew for every call
        yield api


def upload(api, content, name):
    answer = api.post("upload", files={"files": (name, content)})
    if not answer.is_success:
        return None
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


def with_uploads(api, value):
    if isinstance(value, tuple):
        return upload(api, *value)
    if isinstance(value, list):
        return [with_uploads(api, each) for each in value]
    return value


def ask(api, attack, good, folder):
    """The sentence with which a call is refused, or None when it is taken."""
    url, body = attack.url or f"call/v2/{attack.endpoint}", attack.raw
    if body is None:
        values = {name: with_uploads(api, value) for name, value in attack.values.items()}
        if attack.endpoint == "preflight":
            values = good | values
        body = json.dumps(values).replace(FOLDER, str(folder)).encode()
    begun = api.post(url, content=body, headers={"Content-Type": "application/json"})
    if begun.status_code == 422:
        (verdict,) = [each for each in begun.json()["detail"] if not each["is_valid"]]
        return verdict["message"]
    assert begun.is_success, f"{begun.status_code}: {begun.text[:500]}"
    told = api.get(f"{url}/{begun.json()['event_id']}").text
    assert "event: " in told
    event, data = told.rsplit("event: ", 1)[1].split("\ndata: ", 1)
    return str(json.loads(data)["error"]) if event == "error" else None


def attacks(folder):
    return [
        *pictures(), *recordings(folder), *settings(), *places(), *batches(), *others()
    ]  # fmt: skip


def test_each_of_200_hostile_calls_gets_a_sentence_and_the_server_still_serves(app, api, folder):
    good = {
        "image": upload(api, (folder / "face.png").read_bytes(), "face.png"),
        "audio": upload(api, (folder / "voice.wav").read_bytes(), "voice.wav"),
    }
    faults, taken = [], 0
    made = attacks(folder)
    assert len(made) >= 200
    for attack in made:
        try:
            sentence = ask(api, attack, good, folder)
        except Exception as error:
            faults.append(f"{attack.name}: {type(error).__name__} {str(error)[:300]}")
            continue
        if sentence is None:
            taken += 1
            if not attack.may_work:
                faults.append(f"{attack.name}: was taken")
        elif not is_sentence(sentence):
            faults.append(f"{attack.name}: {sentence!r}")
    assert not faults, "\n" + "\n".join(faults)
    assert taken < len(made) / 5
    assert "Traceback" not in app.log
    job = api.post("call/v2/generate", json={**good, "steps": 1}).json()["event_id"]
    assert "event: complete" in api.get(f"call/v2/generate/{job}").text


def is_sentence(text):
    """Whether a person can read it, and it tells nothing of the inside."""
    return (
        isinstance(text, str)
        and text.endswith(".")
        and "\n" not in text
        and 10 < len(text) <= LONGEST
        and not any(part in text for part in ("Traceback", "Error(", "site-packages", "root:"))
        and "Something went wrong" not in text
    )
