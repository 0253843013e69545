"""How events and durations are put into words, the same in the terminal and on the page."""

import math

from omniavatar import (
    ChunkDone,
    Event,
    Finished,
    Notice,
    PictureCheck,
    Preparing,
    SpeechCheck,
    StepDone,
)


def phase(event: Event) -> str:
    """What is being done, without numbers of time: "Part 1 of 3, step 2 of 8"."""
    match event:
        case Preparing() | Notice():
            return event.what[:1].upper() + event.what[1:]
        case StepDone():
            return f"Part {event.chunk} of {event.chunks}, step {event.step} of {event.steps}"
        case ChunkDone():
            return f"Part {event.chunk} of {event.chunks} is ready"
        case Finished():
            return (
                f"{event.duration_seconds:.1f} s of video, {event.frames} frames, "
                f"{event.width} x {event.height}"
            )


def job_phase(state: str, event: Event | None) -> str:
    """What a job is doing: its newest event while it runs, else how it stands."""
    match state:
        case "queued":
            return "Waiting for the device"
        case "running":
            return "Beginning" if event is None else phase(event)
        case "finished":
            return "Finished" if event is None else phase(event)
        case "stopped":
            return "Stopped"
        case "failed":
            return "Failed"
        case _:
            return "Interrupted, because the server was stopped"


def timing(event: StepDone | ChunkDone) -> str:
    """How long the job has run and how long it will: "0:12, about 0:40 left"."""
    elapsed = clock(event.elapsed_seconds)
    if event.remaining_seconds is None:
        return elapsed
    return f"{elapsed}, about {clock(event.remaining_seconds)} left"


def times(elapsed_seconds: float, remaining_seconds: float | None) -> str:
    """The same, of a job: "0:12" or "0:12, about 0:40 left"."""
    left = "" if remaining_seconds is None else f", about {clock(remaining_seconds)} left"
    return f"{clock(elapsed_seconds)}{left}"


def waiting(position: int | None, seconds: float | None) -> str:
    """How long the queue is: "2 videos before yours, about 1:20"."""
    if not position:
        return "yours is next"
    videos = "1 video" if position == 1 else f"{position} videos"
    return f"{videos} before yours" + ("" if seconds is None else f", about {clock(seconds)}")


def outcome(state: str, *, elapsed_seconds: float, seed: int, kept: bool) -> str:
    """How a job ended that did not fail, in a sentence."""
    match state:
        case "finished":
            return f"Made in {clock(elapsed_seconds)}, seed {seed}"
        case "stopped":
            early = "Stopped."
        case _:
            early = "The server was stopped before the video was finished."
    if kept:
        return f"{early} The parts that were finished are kept."
    return f"{early} No part was finished yet."


def about(seconds: float) -> str:
    """A duration that was estimated: "a few seconds", "about 40 seconds", "about 9 days"."""
    if seconds < 8:
        return "a few seconds"
    if seconds < 90:
        return f"about {math.ceil(seconds / 5) * 5} seconds"
    if seconds < 90 * 60:
        return f"about {math.ceil(seconds / 60)} minutes"
    if seconds < 48 * 3600:
        return f"about {seconds / 3600:.1f} hours"
    return f"about {seconds / 86400:.0f} days"


def framing(found: PictureCheck) -> str:
    """What a video shows of a picture, in a line or two."""
    size = f"{found.width} × {found.height} pixels"
    if found.is_whole:
        return f"{size}, the whole picture"
    around = "around the face" if found.faces else "around the middle"
    return f"{size}, {around}. Click on the picture to move it."


def speech(found: SpeechCheck, parts: int | None) -> str:
    """How long a video will be: "7.4 seconds of video, made in 4 parts"."""
    text = f"{found.video_seconds:.1f} seconds of video"
    if parts is None:
        return text
    return f"{text}, made in {parts} parts" if parts > 1 else f"{text}, made in one part"


def remote_progress(phase: str, fraction: float | None, remaining_seconds: float | None) -> str:
    """What an endpoint tells of a job, in one line."""
    percent = "" if fraction is None else f"{fraction:4.0%}  "
    left = "" if remaining_seconds is None else f", about {clock(remaining_seconds)} left"
    return f"{percent}{phase}{left}"


def clock(seconds: float) -> str:
    """75.2 -> "1:15"; 3675 -> "1:01:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
