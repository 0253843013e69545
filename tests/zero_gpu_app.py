"""The app as on a ZeroGPU Space, whose device is lent by a service that this script plays.

`spaces` asks the service for the device before each call, runs the call in a forked process, and
gives the device back. What it asks goes to standard output.
"""

import os
import runpy
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LENT = b'{"idle": false, "nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "token"}'


class DeviceService(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sys.stdout.write(f"DEVICE {self.path}\n")
        sys.stdout.flush()
        self._answer(LENT if self.path.startswith("/schedule") else b"{}")

    def do_GET(self):
        self._answer(b"0")

    def _answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        """Keep quiet."""


def tell_processes():
    """Say on standard output in which process models are loaded, and in which they work."""
    from omniavatar import AvatarPipeline

    load, stream = AvatarPipeline.from_pretrained, AvatarPipeline.stream

    def told_load(model, **options):
        sys.stdout.write(f"LOADED {model} in {os.getpid()}\n")
        sys.stdout.flush()
        return load(model, **options)

    def told_stream(pipeline, *arguments, **options):
        sys.stdout.write(f"WORKS in {os.getpid()} with {len(pipeline._prompts)} prompts\n")
        sys.stdout.flush()
        return stream(pipeline, *arguments, **options)

    AvatarPipeline.from_pretrained, AvatarPipeline.stream = told_load, told_stream


if __name__ == "__main__":
    service = ThreadingHTTPServer(("127.0.0.1", 0), DeviceService)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    os.environ["SPACES_ZERO_GPU"] = "true"
    os.environ["SPACES_ZERO_DEVICE_API_URL"] = f"http://127.0.0.1:{service.server_port}"

    # The build of torch for CPUs has nothing for `spaces` to stand in for.
    sys.modules["torch"] = None
    import spaces  # noqa: F401

    del sys.modules["torch"]
    tell_processes()
    sys.stdout.write(f"APP is {os.getpid()}\n")
    runpy.run_path(str(Path(__file__).parents[1] / "app.py"), run_name="__main__")
