"""Structured logs: one JSON object a line, with the request that it is about."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""Of the call that this task answers, as the caller or its proxy named it."""

ACCESS: Final = logging.getLogger("serve.access")
"""One record per answered request, if it is configured."""

_LOGGERS: Final = ("serve", "cacs_ray")
_FIELDS: Final = "fields"


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON; what was asked is never repeated in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        said: dict[str, object] = {
            "ts": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (about := trace_id.get()) is not None:
            said["trace_id"] = about
        said.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def configure_records(*, has_access: bool = False) -> None:
    """Send the records of this process to its error stream, which Ray keeps.

    Args:
        has_access: whether there is a record for each answered request.
    """
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonLines())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [stream]
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    ACCESS.setLevel(logging.INFO if has_access else logging.WARNING)


def record_access(message: str, **fields: object) -> None:
    """Write an access record, if they are wanted."""
    if ACCESS.isEnabledFor(logging.INFO):
        ACCESS.info(message, extra={_FIELDS: fields})
