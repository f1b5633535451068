"""Counting one stream, and recording it once."""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from opentelemetry import context as context_api

from otel_credits._attributes import METADATA_ESTIMATED, METADATA_STREAM, USAGE_UNKNOWN
from otel_credits._guard import note_fault, say_once
from otel_credits._pipeline import Pipeline, before_shutdown
from otel_credits._stream_usage import StreamUsage
from otel_credits._tracking import Attributes

# How a stream ended. A failed one raised an error of its own.
COMPLETED: Final = "completed"
ABORTED: Final = "aborted"
FAILED: Final = "failed"

_open: set[StreamMeter] = set()


def finish_open_streams() -> None:
    """Record what the streams that are still open used so far: the process ends."""
    for meter in list(_open):
        meter.finish(ABORTED)


before_shutdown.append(finish_open_streams)


class StreamMeter:
    """Counts one stream and records it once. It knows nothing of the stream, so as not to keep it alive."""

    def __init__(self, pipeline: Pipeline, attributes: Attributes, estimated_input_tokens: int | None = None) -> None:
        self._pipeline = pipeline
        self._estimated_input_tokens = estimated_input_tokens
        self._attributes = attributes
        # The reader may go away in a thread or task that knows nothing of the request.
        self._context = context_api.get_current()
        self._usage = StreamUsage()
        self._pid = os.getpid()
        # Read through our wrapper; a part of the inner stream (`text_stream`) was handed out and lives on its own.
        self.used = False
        self.escaped = False

    def opened(self) -> None:
        """The stream is there: from now on it will be recorded. (A manager may be entered twice.)"""
        self._usage = StreamUsage()
        _open.add(self)

    def read(self, event: Any) -> None:
        """Take note of an event. Never raises."""
        try:
            self._usage.read(event)
        except Exception as error:
            note_fault("track_stream", error)

    def wrapper_gone(self) -> None:
        """Nobody holds the wrapper any more. If the stream was read through it, its reader is gone."""
        if self.used and not self.escaped:
            self.finish(ABORTED)

    def finish(self, how: str) -> None:
        """Record the usage, once. Never raises."""
        try:
            _open.remove(self)
        except KeyError:
            return
        if self._pid != os.getpid():  # a forked child dropped its copy; the parent has the stream
            return
        try:
            self._record(how)
        except Exception as error:
            self._pipeline.drop("track_stream", error)

    def _record(self, how: str) -> None:
        usage = self._usage
        if how == FAILED and not usage.events:
            return
        completed = how == COMPLETED or usage.said_last_word
        attributes = dict(self._attributes)
        attributes[METADATA_STREAM] = COMPLETED if completed else ABORTED
        if usage.output_is_placeholder:
            attributes[METADATA_ESTIMATED] = True
        usage.add_to(attributes, self._estimated_input_tokens)
        if completed and attributes.get(USAGE_UNKNOWN):
            say_once(
                "stream without usage",
                logging.WARNING,
                "track_stream: the stream ended without usage, which will be quarantined "
                "(OpenAI needs stream_options={'include_usage': True})",
            )
        self._pipeline.record(attributes, self._context)
