"""Batches carried out: each row is a job, and all that was made comes back as one zip."""

import csv
import io
import logging
import threading
import time
import zipfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniavatar import InputError, OmniAvatarError
from omniavatar.serving.batch_rows import Row
from omniavatar.serving.jobs import ENDED, SECONDS_OF_QUIET, Jobs, JobView
from omniavatar.serving.store import State, Store

logger = logging.getLogger(__name__)

RESULT_COLUMNS = ("row", "name", "state", "video", "seconds", "seed", "model", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One row of a batch at one moment.

    Attributes:
        number: from 1.
        name: of the video's file, without its ending.
        state: of its job; "failed" where none could be begun.
        phase: what is being done, in words.
        fraction: share of its work that is done, 0..1.
        job: ID of its job, or None.
        video: what was made of it.
        error: a sentence that names the row.
    """

    number: int
    name: str
    state: State
    phase: str
    fraction: float
    job: str | None
    video: Path | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch at one moment.

    Attributes:
        id: opens the batch and cannot be guessed.
        created: seconds since 1970.
        rows: in their order.
        archive: zip of all videos and a table of all rows; None before the batch has ended.
    """

    id: str
    created: float
    rows: tuple[RowView, ...]
    archive: Path | None

    @property
    def ended(self) -> bool:
        return all(row.state in ENDED for row in self.rows)

    @property
    def finished(self) -> int:
        """Rows whose video is whole."""
        return sum(row.state == "finished" for row in self.rows)

    @property
    def fraction(self) -> float:
        """Share of the rows that is done, 0..1."""
        return sum(1 if row.state in ENDED else row.fraction for row in self.rows) / len(self.rows)


class Batches:
    """The batches of one process, kept beside its jobs.

    Args:
        jobs: what carries out their rows.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._zipping = threading.Lock()

    def submit(
        self,
        rows: Sequence[Row],
        *,
        visitor: str,
        options: Mapping[str, Any] | None = None,
        consent: Mapping[str, Any] | None = None,
    ) -> str:
        """Put a job for each row that can be used into the queue, which others share in turns.

        Args:
            options: of every job, as `Jobs.submit` takes them; "memory" is how the networks are
                arranged for them.

        Returns:
            The ID of the batch.

        Raises:
            InputError: there are too many rows.
        """
        most = self._jobs.settings.batch_rows
        if not 0 < len(rows) <= most:
            raise InputError(f"These are {len(rows)} videos. A batch has 1 to {most}.")
        batch = Store.new_id()
        kept = []
        for row in rows:
            job, error = None, row.error
            if row.request is not None:
                try:
                    job = self._jobs.submit(
                        row.model,
                        row.request,
                        visitor=visitor,
                        options={
                            **(options or {}),
                            "batch": batch,
                            "row": row.number,
                            "name": row.name,
                        },
                        consent=consent,
                        memory=(options or {}).get("memory"),
                        most_waiting=most,
                    )
                except OmniAvatarError as fault:
                    error = f"Row {row.number}: {fault}"
            kept.append({"number": row.number, "name": row.name, "job": job, "error": error})
        self._jobs.store.save_batch(batch, {"created": time.time(), "rows": kept})
        return batch

    def view(self, batch_id: str) -> BatchView | None:
        """A batch as it is now; None when there is none with this ID."""
        kept = self._jobs.store.load_batch(batch_id)
        if kept is None:
            return None
        rows = tuple(self._row(each) for each in kept["rows"])
        view = BatchView(id=batch_id, created=kept["created"], rows=rows, archive=None)
        if not view.ended:
            return view
        archive = self._archive(view)
        return BatchView(id=batch_id, created=kept["created"], rows=rows, archive=archive)

    def follow(
        self, batch_id: str, *, cancel_on_close: bool = False
    ) -> Generator[BatchView, None, None]:
        """Tell how a batch is, about every second, until it has ended.

        Args:
            cancel_on_close: end its jobs when this generator is closed before.

        Raises:
            InputError: there is no such batch.
        """
        ended = False
        try:
            while not ended:
                view = self.view(batch_id)
                if view is None:
                    raise InputError("This batch is not here any more. Make it again.")
                for row in view.rows if cancel_on_close else ():
                    if row.job is not None:
                        self._jobs.attend(row.job)
                yield view
                ended = view.ended
                if not ended:
                    self._jobs.wait_for_change(SECONDS_OF_QUIET)
        finally:
            if cancel_on_close and not ended:
                self.cancel(batch_id)

    def cancel(self, batch_id: str) -> None:
        """End all of its jobs; what is finished stays."""
        kept = self._jobs.store.load_batch(batch_id)
        for row in reversed(kept["rows"] if kept else []):  # those that wait before the one on duty
            if row["job"] is not None:
                self._jobs.cancel(row["job"])

    def _row(self, kept: Mapping[str, Any]) -> RowView:
        number, error, phase = kept["number"], kept["error"], "Failed"
        job = None if kept["job"] is None else self._jobs.view(kept["job"])
        if job is None and error is None:
            phase, error = "Deleted", f"Row {number}: its video was deleted."
        elif job is not None and job.error is not None:
            error = f"Row {number}: {job.error}"
        return RowView(
            number=number,
            name=kept["name"],
            state="failed" if job is None else job.state,
            phase=phase if job is None else job.phase,
            fraction=0.0 if job is None else job.fraction,
            job=kept["job"],
            video=None if job is None else job.video,
            error=error,
        )

    def _archive(self, view: BatchView) -> Path | None:
        """The zip of a batch that has ended, made on first use and after a video was deleted."""
        path = self._jobs.store.archive(view.id)
        videos = {f"{row.name}.mp4": row.video for row in view.rows if row.video is not None}
        with self._zipping:
            if path.exists():
                return path
            draft = path.with_name(f".{path.name}")
            try:
                path.parent.mkdir(exist_ok=True)
                with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
                    for name, video in videos.items():
                        archive.write(video, name)
                    archive.writestr("results.csv", self._results(view))
                draft.replace(path)
            except OSError as error:
                logger.warning("the zip of a batch could not be written: %s", error)
                draft.unlink(missing_ok=True)
                return None
        if not all(video.exists() for video in videos.values()):  # deleted while it was zipped
            self._jobs.store.drop_archive(view.id)
            return None
        return path

    def _results(self, view: BatchView) -> str:
        """A table of what became of each row, with the settings that made its video."""
        jobs = {row.number: self._jobs.view(row.job) if row.job else None for row in view.rows}
        named = [job.settings for job in jobs.values() if job is not None]
        settings = sorted({name for each in named for name in each} - set(RESULT_COLUMNS))
        text = io.StringIO()
        table = csv.DictWriter(text, [*RESULT_COLUMNS, *settings], lineterminator="\n")
        table.writeheader()
        for row in view.rows:
            job = jobs[row.number]
            told = {} if job is None else _told(job)
            table.writerow(
                {
                    **told,
                    "row": row.number,
                    "name": row.name,
                    "state": row.state,
                    "video": f"{row.name}.mp4" if row.video else "",
                    "error": row.error or "",
                }
            )
        return text.getvalue()


def _told(job: JobView) -> dict[str, Any]:
    return {
        **{name: _plain(value) for name, value in job.settings.items()},
        "seed": job.seed,
        "model": job.model,
        "seconds": round(job.elapsed_seconds, 2),
    }


def _plain(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
