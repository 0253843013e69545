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
