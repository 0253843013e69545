"""A model hub on this machine: enough of its API for huggingface_hub, and connections that drop."""

import hashlib
import io
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import numpy as np
from app_process import ROOT
from safetensors.numpy import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves the files of repositories, on a free port of this machine.

    Args:
        files: content by repository and path.

    Attributes:
        served: bytes of content that were sent, by path.
        asked: paths whose content was asked for, in order, once a request.
        drops: for a path, after how many bytes of each next answer the connection ends.
        refusal: status of every answer, instead of an answer.
        refused: paths whose content is not given, with status 403.
        ranges: whether half files can be continued.
        sizes: what it says of the size of a file, where that is not true.
        damaged: paths whose content comes with another last byte.
        tokens: what the requests gave as their authorization.
    """

    def __init__(self, files: dict[str, dict[str, bytes]]) -> None:
        self.files = files
        self.served: Counter[str] = Counter()
        self.asked: list[str] = []
        self.drops: dict[str, list[int]] = {}
        self.refusal: int | None = None
        self.refused: set[str] = set()
        self.ranges = True
        self.sizes: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.tokens: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_words: object) -> None:
                """Tests read the standard error of what they run."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_connection: object) -> None:
                """Clients are killed in tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_fault: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home, **more: str) -> dict[str, str]:
        """For a process that takes this for the hub, with an empty home of its own."""
        return {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HOME": str(home),
            "HF_ENDPOINT": self.address,
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            **more,
        }

    def run(self, *words, home, check=0, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m omniavatar` in such a process."""
        done = subprocess.run(
            [sys.executable, "-m", "omniavatar", *map(str, words)],
            env=self.environment(home, **more),
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == check, done.stderr
        return done

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.tokens.add(request.headers.get("Authorization", ""))
        path = request.path.partition("?")[0]
        if self.refusal:
            self._send(request, self.refusal, b"")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            self._list(request, match[1])
        elif match := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path):
            if match[2] in self.files.get(match[1], {}):
                # As the hub does for large files: they are elsewhere.
                self._send(request, 302, b"", Location=f"{self.address}/cdn/{match[1]}/{match[2]}")
            else:
                self._send(request, 404, b"")
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._content(request, match[2], self.files[match[1]][match[2]])
        else:
            self._send(request, 404, b"")

    def _list(self, request: BaseHTTPRequestHandler, repository: str) -> None:
        if repository not in self.files:
            self._send(request, 404, b"")
            return
        siblings = []
        for path, content in self.files[repository].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": path, "size": self.sizes.get(path, len(content)), "blobId": blob}
            if not path.endswith(".json"):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        answer = {"id": repository, "sha": COMMIT, "siblings": siblings}
        self._send(request, 200, json.dumps(answer).encode())

    def _content(self, request: BaseHTTPRequestHandler, path: str, content: bytes) -> None:
        self.asked.append(path)
        if path in self.refused:
            self._send(request, 403, b"no")
            return
        if path in self.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        begin = 0
        if self.ranges and (found := request.headers.get("Range")):
            begin = int(found.removeprefix("bytes=").removesuffix("-"))
        rest = content[begin:]
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        drops = self.drops.get(path)
        sent = rest[: drops.pop(0)] if drops else rest
        request.wfile.write(sent)
        self.served[path] += len(sent)
        if len(sent) < len(rest):
            request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(2)

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


def published_files(name: str = "14B", *, size: int = 200_000) -> dict[str, dict[str, bytes]]:
    """Every file that a published checkpoint needs and some that it does not, `size` bytes each."""
    noise = np.random.default_rng(0)

    def tensors() -> bytes:
        return save({"tensor": noise.integers(0, 255, size, dtype=np.uint8)})

    def archive() -> bytes:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("archive/data/0", noise.bytes(size))
        return content.getvalue()

    text_encoder, vae = archive(), archive()
    shards = {
        "1.3B": ["diffusion_pytorch_model.safetensors"],
        "14B": [f"diffusion_pytorch_model-{n:05}-of-00006.safetensors" for n in range(1, 7)],
    }
    base = {
        "config.json": b'{"num_heads": 40}',
        "models_t5_umt5-xxl-enc-bf16.pth": text_encoder,
        "Wan2.1_VAE.pth": vae,
        "google/umt5-xxl/special_tokens_map.json": b"{}",
        "google/umt5-xxl/spiece.model": noise.bytes(1000),
        "google/umt5-xxl/tokenizer.json": b'{"version": "1.0"}',
        "google/umt5-xxl/tokenizer_config.json": b"{}",
        "README.md": b"# Wan",
        "assets/logo.png": noise.bytes(size),
    }
    return {
        f"Wan-AI/Wan2.1-T2V-{name}": base | {shard: tensors() for shard in shards[name]},
        f"OmniAvatar/OmniAvatar-{name}": {
            "config.json": b'{"lora_rank": 128}',
            "pytorch_model.pt": archive(),
        },
        "facebook/wav2vec2-base-960h": {
            "config.json": b"{}",
            "model.safetensors": tensors(),
            "pytorch_model.bin": archive(),
            "tf_model.h5": noise.bytes(size),
        },
        f"Wan-AI/Wan2.1-T2V-{name}-Diffusers": {
            "model_index.json": b"{}",
            "scheduler/scheduler_config.json": b"{}",
            "transformer/config.json": b"{}",
            "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": tensors(),
            "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": tensors(),
            "transformer/diffusion_pytorch_model.safetensors.index.json": b"{}",
            "vae/config.json": b"{}",
            "vae/diffusion_pytorch_model.safetensors": tensors(),
            "text_encoder/config.json": b"{}",
            "text_encoder/model-00001-of-00001.safetensors": tensors(),
            "tokenizer/special_tokens_map.json": b"{}",
            "tokenizer/spiece.model": noise.bytes(1000),
            "tokenizer/tokenizer.json": b"{}",
            "tokenizer/tokenizer_config.json": b"{}",
        },
    }
