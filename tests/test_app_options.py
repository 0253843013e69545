"""Host, port, link and password, typed or from the environment."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from omniavatar import InputError
from omniavatar.serving.app_options import AppOptions, add_app_options, read_app_options

VARIABLES = {
    "OMNIAVATAR_HOST": "0.0.0.0",
    "OMNIAVATAR_PORT": "8080",
    "OMNIAVATAR_SHARE": "yes",
    "OMNIAVATAR_AUTH": "ann:a:b\nbob:c",
    "OMNIAVATAR_MCP": "no",
}


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_app_options(parser)
    return read_app_options(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_everything_can_come_from_the_environment():
    found = AppOptions.from_environment(VARIABLES)
    assert (found.host, found.port, found.share) == ("0.0.0.0", 8080, True)
    assert found.accounts == (("ann", "a:b"), ("bob", "c"))
    assert "a:b" not in repr(found)
    assert AppOptions.from_environment({}) == AppOptions()


def test_what_is_typed_wins(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = parse("--host", "localhost", "--port", "9000", "--auth", "eve:d")
    assert (found.host, found.port, found.share) == ("localhost", 9000, True)
    assert found.accounts == (("eve", "d"),)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "many"], "--port is 'many'"),
        (["--port", "70000"], "1 to 65535"),
        (["--auth", "hunter2"], "user:password"),
        (["--auth", ":hunter2"], "user:password"),
    ],
)
def test_what_can_not_be_used_is_told_in_a_sentence_without_secrets(arguments, told):
    with pytest.raises(InputError, match=told) as refusal:
        parse(*arguments)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "variables",
    [{"OMNIAVATAR_PORT": "0"}, {"OMNIAVATAR_SHARE": "maybe"}, {"OMNIAVATAR_AUTH": "ann"}],
)
def test_a_bad_variable_is_named(variables):
    with pytest.raises(InputError) as refusal:
        AppOptions.from_environment(variables)
    assert refusal.value.field == next(iter(variables))


def test_server_for_agents_needs_its_packages_and_says_which(monkeypatch):
    monkeypatch.setattr("omniavatar.serving.app_options.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"--mcp needs .* requirements-mcp\.txt") as refusal:
        parse("--mcp")
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="OMNIAVATAR_MCP needs"):
        AppOptions.from_environment({"OMNIAVATAR_MCP": "1"})
    monkeypatch.setattr("omniavatar.serving.app_options.find_spec", lambda name: name)
    assert parse("--mcp").mcp
    assert not parse().mcp


def test_an_app_that_can_not_load_its_model_says_why_in_a_sentence():
    ended = subprocess.run(
        [sys.executable, "app.py"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMNIAVATAR_MEMORY": "7GB"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 2
    assert "memory is '7GB'. Use one of:" in ended.stderr
    assert "Traceback" not in ended.stderr
