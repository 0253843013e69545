import os
from pathlib import Path

import pytest

# Before any library reads them: no test asks a model hub, and two test processes share the cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REFERENCE = Path(__file__).parent / "data" / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir",
        type=Path,
        default=REFERENCE,
        help="folder of reference values: another set in the format of tests/data/reference",
    )


@pytest.fixture(scope="session")
def reference_dir(pytestconfig: pytest.Config) -> Path:
    """The folder of reference values; see its README.md."""
    folder: Path = pytestconfig.getoption("--reference-dir")
    if not folder.is_dir():
        pytest.fail(f"--reference-dir {folder} is not a folder")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files to upload: a face, a voice of a second and one of a minute, and what is neither."""
    from app_process import write_portrait, write_voice

    folder = tmp_path_factory.mktemp("app")
    write_portrait(folder / "face.png")
    write_voice(folder / "voice.wav", 1.0)
    write_voice(folder / "long.wav", 60.0)
    (folder / "bad.png").write_text("no picture")
    (folder / "bad.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def app(folder):
    """The app as visitors meet it, which tells no traceback."""
    from app_process import running_app

    with running_app(folder) as app:
        yield app
        assert "Traceback" not in app.log


@pytest.fixture(scope="module")
def browser():
    """A Chromium that plays H.264."""
    from page_driver import open_browser

    with open_browser() as browser:
        yield browser
