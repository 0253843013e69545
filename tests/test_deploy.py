"""What a host gets: recipes that pass their linters, and guides that say what the code does."""

import importlib.util
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import cog
import pytest
import yaml
from app_process import write_portrait, write_voice
from hub_server import Hub, published_files

from omniavatar import GenerationRequest, read_settings, setting_of
from omniavatar.serving import cli
from omniavatar.serving.settings import settings_table

ROOT = Path(__file__).parents[1]
RUNPOD = ROOT / "deploy" / "runpod"
REPLICATE = ROOT / "deploy" / "replicate"
SCRIPTS = sorted(RUNPOD.glob("*.sh"))
TOOLS = Path(sys.executable).parent
OF_THE_APP = {"gradio", "gradio-client", "imageio", "spaces"}
"""The page, its client, and what draws contact sheets of films."""


def _pins(path):
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {re.match(r"[\w.-]+", line)[0].lower(): line for line in lines if line}


def run(*words, **environment):
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_worker_has_the_pins_of_the_app_without_the_app():
    app, worker = _pins(ROOT / "requirements.txt"), _pins(RUNPOD / "requirements.txt")
    assert worker.keys() - app.keys() == {"boto3", "botocore", "runpod"}
    assert app.keys() - worker.keys() == OF_THE_APP
    assert all(app[name] == line for name, line in worker.items() if name in app)
    exact = _pins(RUNPOD / "constraints.txt")
    assert all(exact[name] == line for name, line in worker.items() if "==" in line)
    assert not OF_THE_APP & exact.keys()


def test_image_recipe_passes_the_linter():
    checked = run(TOOLS / "hadolint", RUNPOD / "Dockerfile")
    assert checked.returncode == 0, checked.stdout


def test_image_copies_what_exists_and_does_not_run_as_root():
    recipe = (RUNPOD / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", recipe, re.MULTILINE)
    assert copied
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
    assert re.search(r"^USER [1-9]", recipe, re.MULTILINE)
    assert "HEALTHCHECK" in recipe


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_the_linter_and_are_executable(script):
    checked = run(TOOLS / "shellcheck", script)
    assert checked.returncode == 0, checked.stdout
    assert os.access(script, os.X_OK)


def test_dry_run_shows_the_whole_deployment_and_hides_secrets():
    words = ["--image", "you/worker:1", "--model", "14B", "--volume", "v1", "--dry-run"]
    private = {
        "BUCKET_SECRET_ACCESS_KEY": 'hu"sh',
        "OMNIAVATAR_AUTH": "me:hush",
        "OMNIAVATAR_X": "1",
    }
    shown = run(RUNPOD / "deploy.sh", *words, **private)
    assert shown.returncode == 0, shown.stderr
    commands = [line for line in shown.stdout.splitlines() if line.startswith("+")]
    wanted = ("'docker' 'build'", "'docker' 'push'", "'template' 'create'", "'serverless' 'create'")
    assert all(part in line for part, line in zip(wanted, commands, strict=True))
    assert "sh" not in shown.stdout.split("'--env'")[1].split("OMNIAVATAR_MODEL")[0]
    assert "OMNIAVATAR_AUTH" not in shown.stdout, "of the app"
    environment = json.loads(re.search(r"--env' '(\{.*?\})'", shown.stdout)[1])
    assert environment["OMNIAVATAR_MODEL"] == "14B"
    assert environment["OMNIAVATAR_WEIGHTS"] == "/runpod-volume/omniavatar"


def test_deployment_calls_the_tools_with_what_they_made(tmp_path):
    calls = tmp_path / "calls"
    for name in ("docker", "runpodctl"):
        tool = tmp_path / name
        told = """echo '{"id": "'"$1"'-7"}'""" if name == "runpodctl" else "echo built"
        tool.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >>"{calls}"\n{told}\n')
        tool.chmod(0o755)
    tools = f"{tmp_path}:{os.environ['PATH']}"
    secret = {"BUCKET_SECRET_ACCESS_KEY": "hush 'quoted'"}
    words = ["--image", "you/worker:1", "--model", "1.3B", "--baked"]
    done = run(RUNPOD / "deploy.sh", *words, PATH=tools, **secret)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("--endpoint runpod:serverless-7\n")
    called = calls.read_text().splitlines()
    assert "BAKED_MODEL=1.3B" in called
    assert called[called.index("--template-id") + 1] == "template-7"
    environment = json.loads(called[called.index("--env") + 1])
    assert environment["BUCKET_SECRET_ACCESS_KEY"] == "hush 'quoted'"
    assert environment["OMNIAVATAR_WEIGHTS"] == "/weights"
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 3\n")
    assert run(RUNPOD / "deploy.sh", *words, PATH=tools).returncode == 3
    assert calls.read_text().splitlines() == called, "nothing is made of an image that is not there"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--image", "a", "--model", "14B"],
        ["--what"],
        ["--image"],
        ["--image", "a", "--model", "2B"],
    ],
)
def test_deployment_that_would_not_work_is_refused(words):
    refused = run(RUNPOD / "deploy.sh", *words, "--dry-run")
    assert refused.returncode == 2
    assert "docker" not in refused.stdout


def test_weights_script_loads_and_verifies_every_file(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    folder, script = tmp_path / "to", RUNPOD / "weights.sh"
    with Hub(published_files()) as hub:
        environment = hub.environment(tmp_path)
        environment |= {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}",
        }
        done = run(script, "14B", folder, **environment)
        assert done.returncode == 0, done.stderr
        assert "14B is complete." in done.stdout
        shard = "diffusion_pytorch_model-00006-of-00006.safetensors"
        assert (folder / "Wan2.1-T2V-14B" / shard).is_file()
        refused = run(script, "nano", folder, **environment)
        assert refused.returncode == 2
        assert "comes with the package" in refused.stderr
        file = folder / "OmniAvatar-14B" / "pytorch_model.pt"
        file.write_bytes(b"\0" + file.read_bytes()[1:])
        damaged = run(script, "14B", folder, **environment)
        assert damaged.returncode == 2
        assert str(file) in damaged.stderr


def test_guide_has_the_settings_of_the_code():
    assert settings_table() in (RUNPOD / "README.md").read_text()


def test_guides_commands_are_understood():
    guide = "".join((host / "README.md").read_text() for host in (RUNPOD, REPLICATE))
    commands = re.findall(r"^python -m omniavatar (.+)$", guide, re.MULTILINE)
    assert commands
    for command in commands:
        assert cli._parser().parse_args(command.split())


# ---- Replicate


@pytest.fixture(scope="module")
def predictor_class():
    path = ROOT / yaml.safe_load((REPLICATE / "cog.yaml").read_text())["predict"].split(":")[0]
    spec = importlib.util.spec_from_file_location("predict", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Predictor


def test_replicate_has_the_pins_of_the_worker_without_runpods():
    worker, replicate = _pins(RUNPOD / "requirements.txt"), _pins(REPLICATE / "requirements.txt")
    assert {
        n: p for n, p in worker.items() if n not in {"boto3", "botocore", "runpod"}
    } == replicate
    recipe = yaml.safe_load((REPLICATE / "cog.yaml").read_text())
    assert (ROOT / recipe["build"]["python_requirements"]).is_file()


def test_predictor_takes_the_fields_of_the_request(predictor_class):
    parameters = dict(inspect.signature(predictor_class.predict).parameters)
    del parameters["self"]
    entries = [e for e in fields(GenerationRequest) if setting_of(e).group != "compatibility"]
    assert list(parameters) == [entry.name for entry in entries]
    for entry in entries:
        setting, shown = setting_of(entry), parameters[entry.name].default
        assert shown.description == setting.help
        assert (shown.ge, shown.le) == (setting.minimum, setting.maximum), entry.name
        if setting.group == "input":
            assert parameters[entry.name].annotation is cog.Path
        else:
            assert shown.default == entry.default


def test_predictor_makes_a_video_and_refuses_what_it_can_not(
    predictor_class, tmp_path, caplog, monkeypatch
):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    predictor = predictor_class()
    predictor.setup()
    values = {
        entry.name: entry.default
        for entry in fields(GenerationRequest)
        if setting_of(entry).group != "compatibility"
    }
    values |= {
        "image": cog.Path(write_portrait(tmp_path / "portrait.png")),
        "audio": cog.Path(write_voice(tmp_path / "voice.wav", 0.4)),
        "steps": 1,
        "guidance": 1.0,
    }
    with caplog.at_level(logging.INFO):
        made = predictor.predict(**values)
    assert isinstance(made, cog.Path)
    assert read_settings(made)["steps"] == 1
    assert re.search(r"50\.0% Part 1 of 1", caplog.text)
    with pytest.raises(ValueError, match=r"^invalid_input \(image\): "):
        predictor.predict(**{**values, "image": values["audio"]})
    assert not made.exists(), "no more than the last video is kept"
    again = predictor.predict(**values)
    assert list(tmp_path.glob("tmp/*")) == [again]
