"""Python processes that begin with the large libraries loaded, so that a test waits 2 s for one
and not 15.

One server forks them all. It has loaded other people's code alone: a process runs the project's own
from its first line, in an environment, a folder and a session of its own. What reads the
environment when it is imported (the hub's client, ZeroGPU, RunPod) has to be started the usual way
where a test is about that.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest.mock import patch

# Submodules, since packages load theirs when they are asked for.
LIBRARIES = [
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "diffusers.models.transformers.transformer_wan",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "transformers.models.umt5.modeling_umt5",
    "transformers.models.wav2vec2.modeling_wav2vec2",
    "gradio",
    "librosa.core",
    "peft",
]

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(LIBRARIES)


def start_server() -> None:
    """Start what processes of the method "forkserver" are forked from, unless it runs."""
    # Of one thread, since those of a pool would be missing in what is forked; and with few arenas
    # as in the worker's image, where what threads have freed is used again.
    with patch.dict(os.environ, OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="2"):
        forkserver.ensure_running()


class WarmProcess:
    """What the tests need of `subprocess.Popen`, for `python WORDS`.

    Args:
        words: a script and its arguments, or `-m`, a module and its arguments.
        cwd: the folder that it works in; it leads a session of its own.
        environment: all of its variables.
        output: where its standard output goes.
        errors: where its standard error goes; with the output unless told.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
    ) -> None:
        process: ForkServerProcess = _forking.Process(
            target=_run, args=(list(words), cwd, dict(environment), output, errors)
        )
        start_server()
        process.start()
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        return code

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _run(
    words: list[str],
    cwd: Path,
    environment: dict[str, str],
    output: Path,
    errors: Path | None,
) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, output), (2, errors)):
        if path is None:
            os.dup2(1, 2)
            continue
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    of_project = environment.get("PYTHONPATH", "").split(os.pathsep)
    try:
        if words[0] == "-m":
            sys.argv, sys.path = words[1:], [str(cwd), *of_project, *sys.path]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path = words, [str(Path(words[0]).parent), *of_project, *sys.path]
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
