"""Files for the tests of `media`, made and read back with ffmpeg itself."""

import struct
import subprocess
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np


def ffmpeg(*arguments, stdin=b""):
    """Run ffmpeg; its stdout."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    result = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def describe(path):
    """What ffmpeg says about a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def write_wav(path, samples, rate):
    """Write [n] or [n, c] in -1..1 as 16 bits."""
    samples = np.asarray(samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def clicks(seconds, times, rate=48000, length=0.002):
    """Silence of `seconds` with a short burst of 4 kHz at each of the times, [n]."""
    samples = np.zeros(round(seconds * rate))
    burst = np.sin(2 * np.pi * 4000 * np.arange(round(length * rate)) / rate)
    for time in times:
        start = round(time * rate)
        samples[start : start + len(burst)] = burst[: len(samples) - start]
    return samples


def find_clicks(samples, rate, count):
    """The times at which the `count` loudest clicks begin, in order."""
    burst = np.sin(2 * np.pi * 4000 * np.arange(round(0.002 * rate)) / rate)
    match = np.abs(np.correlate(np.pad(samples, (0, len(burst))), burst, "valid"))
    times = []
    for _ in range(count):
        best = int(match.argmax())
        times.append(best / rate)
        match[max(best - rate // 50, 0) : best + rate // 50] = 0
    return sorted(times)


def decode_sound(path, rate=48000):
    """The sound as a player hears it, mono, [n]."""
    data = ffmpeg("-i", path, "-vn", "-ac", 1, "-ar", rate, "-f", "f32le", "-")
    return np.frombuffer(data, np.float32)


def decode_frames(path, height, width):
    """All frames, [n, h, w, 3]."""
    data = ffmpeg("-i", path, "-an", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


def boxes(data):
    """Names and contents of the boxes of an MP4, one level."""
    found, place = [], 0
    while place < len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        assert size >= 8, "a box with a long size"
        found.append((name.decode("latin-1"), data[place + 8 : place + size]))
        place += size
    return found


def track_seconds(path):
    """What the container says its tracks last, by kind: "vide", "soun"."""
    moov = dict(boxes(path.read_bytes()))["moov"]
    timescale = struct.unpack_from(">I", dict(boxes(moov))["mvhd"], 12)[0]
    seconds = {}
    for name, contents in boxes(moov):
        if name == "trak":
            track = dict(boxes(contents))
            handler = dict(boxes(track["mdia"]))["hdlr"][8:12].decode()
            seconds[handler] = struct.unpack_from(">I", track["tkhd"], 20)[0] / timescale
    return seconds


def ffmpeg_children():
    """Process numbers of our ffmpegs, running or not yet reaped."""
    children = [
        int(number)
        for task in Path("/proc/self/task").iterdir()
        for number in (task / "children").read_text().split()
    ]
    return [n for n in children if Path(f"/proc/{n}/comm").read_text().startswith("ffmpeg")]
