"""A worker of RunPod's own SDK in a process of its own, and the platform's job API on loopback."""

import base64
import json
import os
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app_process import ROOT
from warm_process import WarmProcess

WORKER = ["-m", "omniavatar.serving.handler"]


def worker_environment(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a worker whose temporary files are in a folder of their own."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        **variables,
    }


def encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@dataclass
class JobAPI:
    """What the platform has of a worker: jobs to give, and all that came back, in order."""

    url: str = ""
    waiting: list[dict[str, Any]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    progress: dict[str, list[tuple[float, dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    results: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    to_stop: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    worker: WarmProcess | None = None

    def put(self, identifier: str, **values: Any) -> None:
        with self.changed:
            self.waiting.append({"id": identifier, "input": values})
            self.changed.notify_all()

    def stop(self, identifier: str) -> None:
        with self.changed:
            self.to_stop.append(identifier)
            self.changed.notify_all()

    def wait(self, condition: Any, seconds: float = 400) -> None:
        end = time.monotonic() + seconds
        with self.changed:
            while not self.changed.wait_for(condition, 1):
                assert self.worker is None or self.worker.poll() is None, "the worker has ended"
                assert time.monotonic() < end, (self.taken, dict(self.results))

    def answer(self, identifier: str) -> dict[str, Any]:
        """The one result of a job, when it is there."""
        self.wait(lambda: self.results[identifier])
        (result,) = self.results[identifier]
        return result


@contextmanager
def job_api() -> Iterator[JobAPI]:
    api = JobAPI()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            """Quiet."""

        def _reply(self, status: int, content: Any = None) -> None:
            body = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            kind = urlsplit(self.path).path.split("/")[1]
            queue = {"job-take": api.waiting, "job-stop": api.to_stop}.get(kind)
            if queue is None:
                self._reply(200, {})
                return
            with api.changed:
                if not api.changed.wait_for(lambda: queue, timeout=5):
                    self._reply(204)
                    return
                if kind == "job-stop":
                    stopped = list(queue)
                    queue.clear()
                    self._reply(200, {"jobsToStop": stopped})
                    return
                job = queue.pop(0)
                api.taken.append(job["id"])
                api.changed.notify_all()
            self._reply(200, job)

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            identifier = urlsplit(self.path).path.rsplit("/", 1)[1]
            with api.changed:
                if content.get("status") == "IN_PROGRESS":
                    api.progress[identifier].append((time.monotonic(), content["output"]))
                    assert not api.results[identifier], "progress after the answer"
                else:
                    api.results[identifier].append(content)
                api.changed.notify_all()
            self._reply(200, {})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def running_worker(
    api: JobAPI, folder: Path, *, words: Sequence[str] = WORKER, **variables: str
) -> Iterator[WarmProcess]:
    """A worker that takes its jobs from the API; its log is `worker.log`."""
    environment = worker_environment(
        folder,
        RUNPOD_WEBHOOK_GET_JOB=f"{api.url}/job-take/$ID?gpu=none",
        RUNPOD_WEBHOOK_POST_OUTPUT=f"{api.url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
        RUNPOD_WEBHOOK_POST_STREAM=f"{api.url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
        RUNPOD_WEBHOOK_PING=f"{api.url}/ping/$RUNPOD_POD_ID",
        RUNPOD_POD_ID="pod",
        RUNPOD_ENDPOINT_ID="endpoint",
        RUNPOD_AI_API_KEY="key",
        **variables,
    )
    log = folder / "worker.log"
    process = WarmProcess(words, cwd=folder, environment=environment, output=log)
    api.worker = process
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
