"""Host, port, link and password, typed or from the environment."""

import argparse
import os
import signal
import socket
from types import SimpleNamespace

import gradio
import pytest
from app_process import ROOT
from warm_process import WarmProcess

from omniavatar import InputError
from omniavatar.serving import cli, ui
from omniavatar.serving.app_options import (
    AppOptions,
    add_app_options,
    check_address,
    read_app_options,
)

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


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_place_that_is_free_is_left_as_it_was():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for options in (AppOptions(), AppOptions(host="localhost", port=port), AppOptions(port=port)):
        check_address(options)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "192.0.2.1"])
def test_a_host_that_is_not_here_is_told_before_anything_is_loaded(host, capsys):
    assert cli.main(["app", "--host", host, "--port", "8080"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"omniavatar: The page can not be served on {host}, port 8080: ")
    assert told.count("\n") == 1


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(taken_port, capsys):
    assert cli.main(["app", "--port", str(taken_port)]) == 2
    told = capsys.readouterr().err
    assert f"on 127.0.0.1, port {taken_port}: Address already in use. Use" in told
    assert told.count("\n") == 1


def test_a_port_that_is_taken_meanwhile_is_told_as_well_and_the_jobs_are_closed(
    taken_port, tmp_path, monkeypatch
):
    closed = []
    jobs = SimpleNamespace(served=tmp_path, close=lambda: closed.append(True))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with gradio.Blocks(analytics_enabled=False) as page:
        """An empty one."""
    with pytest.raises(InputError, match=f"on 127.0.0.1, port {taken_port}: no port is free"):
        ui.launch(page, jobs, AppOptions(port=taken_port))
    assert closed


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OMNIAVATAR_MEMORY", "7GB", "memory is '7GB'. Use one of:"),
        ("OMNIAVATAR_KEEP_HOURS", "abc", "OMNIAVATAR_KEEP_HOURS is 'abc'. Use a number above 0."),
        ("OMNIAVATAR_HOST", "nowhere.invalid", "served on nowhere.invalid: "),
    ],
)
def test_an_app_that_can_not_start_says_why_in_a_sentence(name, value, told, tmp_path):
    log = tmp_path / "log"
    variables = {"OMNIAVATAR_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1", name: value}
    app = WarmProcess(
        [str(ROOT / "app.py")],
        cwd=tmp_path,
        environment={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        output=log,
    )
    assert app.wait(timeout=300) == 2
    *_, last = log.read_text().splitlines()
    assert last.startswith("app.py: error: ")
    assert told in last
    assert "Traceback" not in log.read_text()
