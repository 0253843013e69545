"""README: what it promises to the Space, to the shell and to Python holds."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from app_process import running_app

import omniavatar
from omniavatar.serving import cli

ROOT = Path(__file__).parents[1]
APP_URL = "http://127.0.0.1:7860"
README = (ROOT / "README.md").read_text()
FRONT_MATTER, TEXT = README.split("---\n", 2)[1:]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def _pin(package: str) -> str:
    match = re.search(rf"^{package}==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert match, f"{package} is not pinned"
    return match[1]


def test_front_matter_starts_the_space() -> None:
    space = yaml.safe_load(FRONT_MATTER)
    assert space["sdk"] == "gradio"
    assert space["sdk_version"] == _pin("gradio")
    assert re.fullmatch(r"3\.12\.\d+", space["python_version"])
    assert (ROOT / space["app_file"]).is_file()
    assert space["license"] == "apache-2.0"
    assert len(space["short_description"]) <= 60


def test_space_installs_a_torch_that_zerogpu_supports_and_requirements_accept() -> None:
    before = re.search(r"^torch==2\.(\d+)\.\d+$", (ROOT / "pre-requirements.txt").read_text(), re.M)
    after = re.search(r"^torch>=2\.(\d+),<2\.(\d+)$", (ROOT / "requirements.txt").read_text(), re.M)
    assert before
    assert after
    assert int(after[1]) <= int(before[1]) < int(after[2])
    assert 8 <= int(before[1]) <= 11


def test_every_make_command_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    stated = set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE))
    assert {"run", "test", "demo"} <= stated <= targets


def test_every_linked_or_listed_file_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", TEXT)
    paths = [path for pair in links for path in pair if path and "://" not in path]
    paths += re.findall(r"^\| `([^`]+)` \|", TEXT, flags=re.MULTILINE)
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]


def _commands() -> list[str]:
    lines = "\n".join([*_blocks("sh"), (ROOT / "Makefile").read_text()])
    return re.findall(r"python -m omniavatar (.+)$", lines, flags=re.MULTILINE)


@pytest.mark.parametrize("command", _commands())
def test_every_command_is_understood_and_finds_its_files(command: str) -> None:
    words = shlex.split(command)
    inputs = [word for word in words if word.startswith("examples/")]
    assert not [path for path in inputs if not (ROOT / path).is_file()]
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            cli.main(words)
    else:
        assert cli._parser().parse_args(words)


@pytest.fixture
def copy_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder that holds the examples, as README's reader does."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run_example(name: str, *, url: str = APP_URL) -> dict[str, Any]:
    """Run the one Python block that names `name`, and return its variables."""
    (example,) = (block for block in _blocks("python") if name in block)
    variables: dict[str, Any] = {}
    exec(compile(example.replace(APP_URL, url), "README.md", "exec"), variables)
    return variables


def test_python_example_makes_a_video(
    copy_of_examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run_example("AvatarPipeline")
    assert "new frames" in capsys.readouterr().out
    assert omniavatar.read_settings(copy_of_examples / "talk.mp4")["seed"] == 7


def test_network_example_makes_a_video(copy_of_examples: Path) -> None:
    with running_app(copy_of_examples) as app:
        variables = _run_example("gradio_client", url=app.url)
    assert variables["settings"]["seed"] == 7
    assert Path(variables["video"]).stat().st_size > 0
