"""Files of a job: what is accepted, what is refused, and that nothing inside can be reached."""

import base64
import socket
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from omniavatar import InputError
from omniavatar.serving import sources
from omniavatar.serving.sources import DownloadError, Limits, TooLargeError, save

CONTENT = bytes(range(256)) * 10
OPEN = Limits(most_bytes=3000, seconds=2, private_addresses=True)
CLOSED = Limits(most_bytes=3000, seconds=2)


@pytest.fixture(scope="module")
def server():
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments):
            """Quiet."""

        def do_GET(self):
            getattr(self, self.path.split("/")[1].split("?")[0])()

        def _begin(self, status=200, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def file(self):
            self._begin(Content_Length=str(len(CONTENT)))
            self.wfile.write(CONTENT)

        def host(self):
            self._begin()
            self.wfile.write(self.headers["Host"].encode())

        def quiet(self):
            self._begin(Content_Length="2000")
            self.wfile.flush()
            threading.Event().wait(100)

        def many_digits(self):
            self._begin(Content_Length="9" * 5000)

        def absent(self):
            self._begin(404)

        def announced(self):
            self._begin(Content_Length="4000")

        def endless(self):
            self._begin()
            try:
                while True:
                    self.wfile.write(CONTENT)
            except OSError:
                return

        def cut(self):
            self._begin(Content_Length="2000")
            self.wfile.write(b"beginning")

        def trickle(self):
            self._begin(Content_Length="2000")
            try:
                for _ in range(100):
                    self.wfile.write(b".")
                    time.sleep(0.1)
            except OSError:
                return

        def moved(self):
            self._begin(302, Location="/file")

        def round(self):
            self._begin(301, Location="/round")

        def inward(self):
            self._begin(302, Location="http://169.254.169.254/latest/meta-data")

        def local(self):
            self._begin(302, Location="file:///etc/passwd")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "data:image/png;base64,{}",
        "data:;base64,{}",
        "data:application/x-Odd+thing;charset=utf-8;BASE64,{}",
        "\n{}\r\n",
        " data:image/png;base64,\t{}",
    ],
)
def test_base64_and_data_urls_give_the_file(form, tmp_path):
    value = form.format(base64.b64encode(CONTENT).decode())
    save(value, tmp_path / "file", field="image", limits=CLOSED)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("padding", ["", "="])
def test_base64_for_urls_gives_the_file(padding, tmp_path):
    letters = base64.urlsafe_b64encode(CONTENT[:-2]).decode()
    assert "_" in letters
    assert letters.endswith("=")
    value = letters.rstrip("=") + padding * (-len(letters.rstrip("=")) % 4)
    save(value, tmp_path / "file", field="image", limits=CLOSED)
    assert (tmp_path / "file").read_bytes() == CONTENT[:-2]


def test_lines_do_not_count_as_content(tmp_path):
    value = base64.encodebytes(bytes(3000)).decode().replace("\n", "\r\n")
    save(value, tmp_path / "file", field="image", limits=CLOSED)
    assert (tmp_path / "file").read_bytes() == bytes(3000)


def test_much_space_takes_little_memory(tmp_path):
    value = "AAAA " * 400_000
    limits = Limits(most_bytes=2_000_000, seconds=2)
    tracemalloc.start()
    try:
        save(value, tmp_path / "file", field="image", limits=limits)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(value)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [7, None, "", ["a"], "a", "not base64!", "data:image/png,plain", "/etc/passwd", "ftp://a/b",
     "file:///etc/passwd", "gopher://a", "äöü", "\ud800",
     "data:image/png;base64,data:a;base64,AAAA"],
)  # fmt: skip
def test_other_values_are_refused_in_one_sentence(value, tmp_path):
    with pytest.raises(InputError, match="image") as error:
        save(value, tmp_path / "file", field="image", limits=OPEN)
    assert error.value.field == "image"
    assert not (tmp_path / "file").exists()


def test_size_is_known_before_decoding(tmp_path, monkeypatch):
    def decode(*_arguments, **_options):
        raise AssertionError("decoded")

    monkeypatch.setattr(sources.base64, "b64decode", decode)
    with pytest.raises(TooLargeError, match=r"0\.003 MB"):
        save("A" * 4008, tmp_path / "file", field="audio", limits=CLOSED)


def test_address_gives_the_file_and_redirects_are_followed(server, tmp_path):
    for path in ("file", "moved"):
        save(f"{server}/{path}", tmp_path / path, field="image", limits=OPEN)
        assert (tmp_path / path).read_bytes() == CONTENT
    save(f"{server}/host", tmp_path / "host", field="image", limits=OPEN)
    assert (tmp_path / "host").read_text() == server.removeprefix("http://")


@pytest.mark.parametrize(
    ("path", "kind", "told"),
    [
        ("absent", DownloadError, "404"),
        ("announced", TooLargeError, "MB"),
        ("endless", TooLargeError, "MB"),
        ("quiet", DownloadError, "more than 2 seconds"),
        ("cut", DownloadError, "9 of 2000"),
        ("trickle", DownloadError, "more than 2 seconds"),
        ("round", DownloadError, "redirects"),
        ("local", DownloadError, "http"),
    ],
)
def test_address_that_gives_no_file_is_told(path, kind, told, server, tmp_path):
    began = time.monotonic()
    with pytest.raises(kind, match=told):
        save(f"{server}/{path}", tmp_path / "file", field="image", limits=OPEN)
    assert time.monotonic() - began < 10


def test_odd_headers_are_no_fault_of_ours(server, tmp_path):
    save(f"{server}/many_digits", tmp_path / "file", field="image", limits=OPEN)
    assert (tmp_path / "file").read_bytes() == b""


def test_letters_beyond_ascii_are_sent_as_browsers_do(server, tmp_path):
    save(f"{server}/file?name=\u00e9&a=%20", tmp_path / "file", field="image", limits=OPEN)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_download_of_a_cancelled_job_ends(server, tmp_path):
    limits = Limits(most_bytes=3000, seconds=60, private_addresses=True)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(DownloadError, match="ended after 0 of 2000"):  # not: took 60 seconds
        save(f"{server}/quiet", tmp_path / "file", field="image", limits=limits, stop=stop)


def test_fault_of_our_disk_is_not_told_as_one_of_the_address(server, tmp_path):
    with pytest.raises(FileNotFoundError):
        save(f"{server}/file", tmp_path / "absent" / "file", field="image", limits=OPEN)


def test_host_is_reached_by_the_address_that_works(server, tmp_path, monkeypatch):
    port = int(server.rsplit(":", 1)[1])
    ways = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(sources.socket, "getaddrinfo", lambda *_arguments, **_options: ways)
    monkeypatch.setattr(sources.socket, "create_connection", _only_to("127.0.0.1"))
    save(f"http://both.test:{port}/file", tmp_path / "file", field="image", limits=OPEN)
    assert (tmp_path / "file").read_bytes() == CONTENT


def _only_to(host):
    def to(address, **options):
        if address[0] != host:
            raise OSError(101, "Network is unreachable")
        sock = socket.socket(socket.AF_INET)
        sock.settimeout(options["timeout"])
        sock.connect(address)
        return sock

    return to


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "10.1.2.3", "192.168.0.1", "172.16.5.5",
     "169.254.169.254", "100.64.0.1", "[::ffff:127.0.0.1]", "[fe80::1]", "[fc00::1]",
     "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "2130706433", "0x7f.1", "224.0.0.1",
     "[fec0::1]", "[::127.0.0.1]", "[::ffff:0:7f00:1]", "[64:ff9b:1::7f00:1]"],
)  # fmt: skip
def test_addresses_inside_are_refused_in_every_spelling(host, tmp_path):
    with pytest.raises(DownloadError, match="not on the public internet"):
        save(f"http://{host}:9/", tmp_path / "file", field="image", limits=CLOSED)


def test_redirect_to_the_inside_is_refused(server, tmp_path, monkeypatch):
    port = int(server.rsplit(":", 1)[1])
    connect, resolve = socket.create_connection, socket.getaddrinfo

    def public(host, *arguments, **options):
        if host == "public.test":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]
        return resolve(host, *arguments, **options)

    def to_server(address, **options):
        assert address[0] == "93.184.216.34", "connects only to what was looked at"
        return connect(("127.0.0.1", port), **options)

    monkeypatch.setattr(sources.socket, "getaddrinfo", public)
    monkeypatch.setattr(sources.socket, "create_connection", to_server)
    save("http://public.test/file", tmp_path / "file", field="image", limits=CLOSED)
    with pytest.raises(DownloadError, match="public internet"):
        save("http://public.test/inward", tmp_path / "other", field="image", limits=CLOSED)
    assert not (tmp_path / "other").exists()
