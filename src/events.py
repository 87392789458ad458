"""TensorBoard events of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError

_FLUSH_SECONDS = 30  # so old is what TensorBoard shows of a run, at most


class Events:
    """Writes one new event file `events.out.tfevents.*` into a run's folder.

    Its records and messages are tensorboardX's, but not its SummaryWriter: that writes in a thread
    of its own, which dies of a full disk without a word, and the training then waits for it for
    ever. Here each call writes, in microseconds, and its caller gets the error. Events are buffered
    for up to half a minute.

    Args:
        run: the folder, which exists; files of earlier starts of the run stay in it.
        purge_step: of a resumed run, the first step that is done again. TensorBoard forgets this
            step's events and all later ones in the earlier files.

    Raises:
        UserError: the file cannot be written, here and in every method, or at the latest by
            `close`.
    """

    def __init__(self, run: Path, purge_step: int | None = None) -> None:
        # Imported for whoever writes events: it imports PyTorch too, where that is installed.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._picture = summary.image
        self._run = run
        self._open = True
        self._flushed = time.monotonic()
        # TensorBoard reads files by name; tensorboardX's has only the second it was made in.
        number = len(list(run.glob("events.out.tfevents.*")))
        self._writer = self._try(lambda: EventsWriter(str(run / "events"), f".{number:04d}"))
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=purge_step, session_log=start)
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each tag, all of them in one record.

        Args:
            step: of the whole run, from 1.
            values: tag -> value, stored in float32; it may be infinite or NaN.
        """
        points = [self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
        self._write(step=step, summary=self._summary(value=points))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Add pictures.

        Args:
            step: of the whole run, from 1.
            pictures: tag -> uint8 [H, W, 3], RGB.
        """
        for tag, picture in pictures.items():
            self._write(step=step, summary=self._picture(tag, picture, dataformats="HWC"))
        self.flush()

    def flush(self) -> None:
        """Bring everything to the disk: to be called before a checkpoint of the step is written,
        since what is lost before it is not done again."""
        self._try(self._writer.flush)
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Finish the file, once. After an error nothing more is written or raised."""
        if self._open:
            self._open = False
            self._try(self._writer.close)

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._try(lambda: self._writer.write_event(event))

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            self._open = False
            raise UserError(
                f"{self._run}: cannot write TensorBoard events there: {error.strerror}; free some "
                "space, or choose another run_path"
            ) from None
