"""An S3 server on loopback: `python -m tests.support.s3_server PORT SECONDS`, the seconds of an upload."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class SlowUploads:
    """A WSGI application whose uploads of objects take longer: half of it before they are stored."""

    def __init__(self, application: Any, seconds: float) -> None:
        self._application, self._seconds = application, seconds

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        pause_s = self._seconds / 2 if environ["REQUEST_METHOD"] == "PUT" else 0.0
        time.sleep(pause_s)
        answer: Iterable[bytes] = self._application(environ, start_response)
        time.sleep(pause_s)
        return answer


if __name__ == "__main__":
    application = SlowUploads(DomainDispatcherApplication(create_backend_app), float(sys.argv[2]))
    make_server("127.0.0.1", int(sys.argv[1]), application, threaded=True).serve_forever()
