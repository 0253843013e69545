from pathlib import Path

import pytest

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
