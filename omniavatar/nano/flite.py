"""The speech synthesiser flite, whose voices are cut from recordings: Debian's `flite` program.

It tells when each sound ends, so what the mouth should do is known as for espeak-ng.
"""

import os
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omniavatar.nano.debian import PROGRAMS
from omniavatar.nano.espeak import SAMPLE_RATE, Phoneme, Utterance

# flite's names of sounds in espeak's letters, which `speech.visemes_of` reads. flite does not tell
# stress; full vowels count as half stressed. A "-" stands before voiceless stops, because they
# begin where the mouth closes, and not, as espeak's do, where the closure bursts.
_SPELLING = {
    "aa": "A,", "ae": "a,", "ah": "V,", "ao": "O,", "aw": "aU,", "ax": "@", "axr": "3", "ay": "aI,",
    "b": "b", "ch": "-tS", "d": "d", "dh": "D", "dx": "t", "eh": "E,", "er": "3", "ey": "eI,",
    "f": "f", "g": "g", "hh": "h", "ih": "I", "iy": "i,", "jh": "dZ", "k": "-k", "l": "l", "m": "m",
    "n": "n", "ng": "N", "ow": "oU,", "oy": "OI,", "p": "-p", "pau": "_", "r": "r", "s": "s",
    "sh": "S", "ssil": "_", "t": "-t", "th": "T", "uh": "U", "uw": "u,", "v": "v", "w": "w",
    "y": "j", "z": "z", "zh": "Z",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flite:
    """The program, and where its libraries lie if not in the system's folders."""

    program: Path
    libraries: Path | None = None

    def speak(
        self,
        text: str,
        *,
        voice: str,
        seconds_per_second: float = 1.0,
        hertz: float | None = None,
    ) -> Utterance:
        """Say a text.

        Args:
            text: one or more English sentences.
            voice: slt, rms, awb or kal16.
            seconds_per_second: more than 1 is slower.
            hertz: mean pitch; None is the voice's own, and rms has no other.

        Raises:
            FileNotFoundError: the program can not say it.
        """
        with tempfile.TemporaryDirectory() as folder:
            sound = Path(folder) / "said.wav"
            environment = dict(os.environ)
            if self.libraries is not None:
                environment["LD_LIBRARY_PATH"] = str(self.libraries)
            pitch = () if hertz is None else ("--setf", f"int_f0_target_mean={hertz:.0f}")
            run = subprocess.run(
                [
                    *(str(self.program), "-voice", voice, "-psdur"),
                    *("--setf", f"duration_stretch={seconds_per_second}", *pitch),
                    *("-t", text, "-o", str(sound)),
                ],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode or not sound.exists():
                raise FileNotFoundError(
                    f"{self.program} can not speak: {run.stderr.strip()[-200:]}. Install Debian's "
                    "flite again."
                )
            samples = _read(sound)
        return Utterance(samples, _phonemes(run.stdout))


def _read(sound: Path) -> NDArray[np.float32]:
    """Samples [n] in -1..1. All four voices speak 16-bit numbers at `SAMPLE_RATE`."""
    with wave.open(str(sound)) as file:
        assert (file.getframerate(), file.getnchannels()) == (SAMPLE_RATE, 1), sound
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return samples.astype(np.float32) / np.float32(2**15)


def _phonemes(told: str) -> tuple[Phoneme, ...]:
    """`pau:0.164 hh:0.255 ...`: every sound with the second at which it ends.

    A last pause may be told longer than it is; the sounds before it are where they are told.
    """
    phonemes, start = [], 0.0
    for piece in told.split():
        name, _, end = piece.partition(":")
        if name in _SPELLING and end:
            phonemes.append(Phoneme(_SPELLING[name], start, float(end)))
            start = float(end)
    return tuple(phonemes)


def find_flite(folder: Path) -> Flite:
    """The program of the system, or the one fetched to `folder`.

    Raises:
        FileNotFoundError: there is none.
    """
    program = shutil.which("flite")
    if program is not None:
        return Flite(Path(program))
    fetched = folder / "usr/bin/flite"
    if not fetched.exists():
        raise FileNotFoundError(PROGRAMS)
    return Flite(fetched, next(folder.glob("usr/lib/*/libflite.so.1")).parent)
