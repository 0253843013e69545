"""How events and durations are put into words, the same in the terminal and on the page."""

from omniavatar import ChunkDone, Event, Finished, Preparing, StepDone


def phase(event: Event) -> str:
    """What is being done, without numbers of time: "Part 1 of 3, step 2 of 8"."""
    match event:
        case Preparing():
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


def timing(event: StepDone | ChunkDone) -> str:
    """How long the job has run and how long it will: "0:12, about 0:40 left"."""
    elapsed = clock(event.elapsed_seconds)
    if event.remaining_seconds is None:
        return elapsed
    return f"{elapsed}, about {clock(event.remaining_seconds)} left"


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
