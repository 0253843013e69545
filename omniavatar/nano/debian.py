"""Debian packages that evaluation uses: fetched without being installed, by Debian's own client."""

import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path("build/nano/debian")
"""Where packages are unpacked."""

PACKAGES = ("asterisk-core-sounds-en-wav", "flite", "libflite1")
"""Recorded speech (CC BY-SA 3.0, Allison Smith and Digium), and a synthesiser with its library."""

PROGRAMS = (
    "The synthesiser flite is missing: install Debian's package flite, or run "
    "`python -m omniavatar.nano fetch` on Debian or Ubuntu."
)
RECORDINGS = (
    "Recorded speech is missing: give a folder with --recordings, or run "
    "`python -m omniavatar.nano fetch` on Debian or Ubuntu."
)


def fetch_packages(folder: Path) -> None:
    """Download the packages of `PACKAGES` and unpack them below `folder`; nothing is installed.

    Raises:
        FileNotFoundError: apt-get or dpkg is missing, or does not find a package.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise FileNotFoundError(
            "apt-get and dpkg are missing: on other systems than Debian and Ubuntu install flite, "
            "and give recorded speech with --recordings."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        _run(["apt-get", "download", "--quiet", *PACKAGES], Path(place))
        for package in sorted(Path(place).glob("*.deb")):
            _run(["dpkg", "--extract", str(package), str(folder.absolute())], Path(place))


def _run(command: list[str], place: Path) -> None:
    run = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = " ".join(run.stderr.split())[-300:]
        raise FileNotFoundError(f"`{' '.join(command[:2])}` failed: {reason}")
