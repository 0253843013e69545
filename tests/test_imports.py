"""The house plan: which room of the package may import which, and which libraries it may use.

A room is a file or folder directly under `omniavatar/`. A new room needs a row in `ALLOWED`.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "omniavatar"
TESTS = ROOT / "tests"

# What each room may import besides itself and `errors`. "public" is what `omniavatar/__init__.py`
# exports; it is for those outside the engine, so that they need to know nothing else.
ENGINE = {"request", "plan", "events", "media", "models", "weights", "memory", "stages", "progress"}
ENGINE |= {"inputs", "placement", "tiers"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "request": set(),
    "plan": set(),
    "events": set(),
    "progress": set(),
    "media": set(),
    "inputs": {"request", "plan", "media", "weights"},
    "checks": {"request", "plan", "media", "weights", "inputs"},
    "models": set(),
    "weights": {"models"},
    "tiers": set(),
    "memory": {"models", "tiers"},
    "pinned": set(),
    "placement": {"models", "memory", "pinned", "speed", "weights"},
    "stages": {"request", "plan", "events", "models", "progress"},
    "effects": {"request", "weights"},
    "flops": {"weights"},
    "speed": {"models"},
    "pipeline": ENGINE | {"public", "flops", "speed"},  # the package's own version
    "doctor": ENGINE | {"pipeline", "speed"},
    "bench": ENGINE | {"pipeline", "flops", "speed", "placement", "pinned", "tiers"},
    # Training needs the networks, evaluation the pipeline that people run.
    "nano": {"models", "weights", "media", "memory", "stages", "pipeline", "public"},
    "serving": {"public"},
    "app": {"public", "serving"},
    "__main__": {"serving"},
    "__init__": ENGINE | {"pipeline", "bench", "doctor", "effects", "flops", "speed", "checks"},
}

# Libraries that only some rooms may use.
RESERVED: dict[str, set[str]] = {
    "gradio": {"serving", "app"},
    "gradio_client": {"serving", "app"},
    "huggingface_hub": {"weights"},
    "httpx2": {"weights"},
    "spaces": {"serving", "app"},
    "runpod": {"serving"},
    "boto3": {"serving"},
    "botocore": {"serving"},
    "espeakng_loader": {"nano"},
    "torch": {
        "models",
        "weights",
        "memory",
        "pinned",
        "placement",
        "stages",
        "pipeline",
        "nano",
        "bench",
        "doctor",
        "speed",
    },
    "diffusers": {
        "models",
        "weights",
        "memory",
        "placement",
        "stages",
        "pipeline",
        "nano",
        "bench",
        "speed",
    },
    "transformers": {
        "models",
        "weights",
        "memory",
        "placement",
        "stages",
        "pipeline",
        "nano",
        "bench",
    },
}

# Installed by a host's own image, in `deploy/`: runpod and gradio exclude each other.
HOSTED = {"runpod", "boto3", "botocore"}

# Required though no file imports them: diffusers and transformers do, for what is said here.
INDIRECT = {
    "peft": "LoRA layers beside base weights",
    "sentencepiece": "tokenizers stored as sentencepiece models",
}


def _room(path: Path) -> str:
    if path.parent in (ROOT, PACKAGE):
        return path.stem
    return path.relative_to(PACKAGE).parts[0]


FILES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "app.py"]


def _modules(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that is imported, wherever it stands in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_rooms(source: str) -> set[str]:
    """Name the rooms that the source imports; names of the package itself are `public`."""
    own = (name.split(".") for name in _modules(source) if name.split(".")[0] == "omniavatar")
    return {parts[1] if len(parts) > 1 and parts[1] in ALLOWED else "public" for parts in own}


def _libraries(source: str) -> set[str]:
    own = {"omniavatar", *sys.stdlib_module_names}
    return {name.split(".")[0] for name in _modules(source)} - own


def _requirements(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    names = (re.match(r"[\w.-]+", line) for line in lines)
    return {match[0].lower() for match in names if match}


def test_reader_sees_every_form_of_import() -> None:
    source = """
import omniavatar
from omniavatar import media, InputError
def late():
    import omniavatar.stages.denoise as denoise
    from omniavatar.models.transformer import OmniAvatarTransformer3DModel
    import torch.nn, json
"""
    assert _own_rooms(source) == {"public", "media", "stages", "models"}
    assert _libraries(source) == {"torch"}


def test_every_room_has_a_row_and_every_row_a_room() -> None:
    assert {_room(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stay_within_the_house_plan(path: Path) -> None:
    room, source = _room(path), path.read_text()
    assert _own_rooms(source) <= ALLOWED[room] | {room, "errors"}
    assert not [
        name for name in _libraries(source) if room not in RESERVED.get(name, ALLOWED.keys())
    ]


def _distributions(files: Iterable[Path]) -> set[str]:
    """Name the distributions of the libraries that the files import."""
    known = packages_distributions()
    libraries = {name for path in files for name in _libraries(path.read_text())}
    libraries -= HOSTED | {path.stem for path in TESTS.glob("*.py")}
    return {known.get(name, [name])[0].lower().replace("_", "-") for name in libraries}


def test_pins_are_what_is_imported() -> None:
    runtime, development = _requirements("requirements.txt"), _requirements("requirements-dev.txt")
    imported = _distributions(FILES)
    assert imported - runtime <= {"espeakng-loader"}, "imported, but not in requirements.txt"
    assert runtime <= imported | INDIRECT.keys(), "in requirements.txt, but not used"
    tested = _distributions(TESTS.glob("*.py"))
    assert tested <= runtime | development, "imported by tests, but not in requirements-dev.txt"
    assert not runtime & development, "pinned twice"
