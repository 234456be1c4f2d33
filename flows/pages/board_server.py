"""The board on a port of this machine: rendered again when a newer run is published, and otherwise every ten minutes."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sqlalchemy import Engine

from flows.pages.board import render_board
from rnn_core.contracts.errors import ForecastError
from sql.published.board import newest_run

HOST = "127.0.0.1"
# The page says how old its forecast is, which must not stand still.
_LASTS_SECONDS = 600.0
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Refresh": "60",
}


class BoardServer(ThreadingHTTPServer):
    """Serves the board of a source on 127.0.0.1 until it is shut down. Port 0 takes any that is free.

    Raises ForecastError if there is nothing to show yet, or if the port is taken.
    """

    daemon_threads = True

    def __init__(self, store: Engine, source: str, port: int, *, patients: bool = False) -> None:
        self._store, self._source, self._patients = store, source, patients
        self._lock = threading.Lock()
        self._made: tuple[int | None, float, bytes] = (None, 0.0, b"")
        self.page()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ForecastError(f"Port {port} of {HOST} cannot be used ({error.strerror}); choose another.") from None

    @property
    def hosts(self) -> set[str]:
        """What a browser on this machine calls this server."""
        return {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def page(self) -> bytes:
        """The board of the newest run. Raises ForecastError as `render_board`."""
        with self._lock:
            run, made_at, page = self._made
            newest = newest_run(self._store, self._source)
            if newest is None or newest != run or time.monotonic() - made_at > _LASTS_SECONDS:
                page = render_board(self._store, self._source, patients=self._patients).encode()
                self._made = newest, time.monotonic(), page
            return page


class _Handler(BaseHTTPRequestHandler):
    server: BoardServer

    def do_GET(self) -> None:
        # Another name that leads here is that of a page elsewhere, which may not read this one.
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(403)
        elif self.path != "/":
            self.send_error(404)
        else:
            self._send_page()

    def _send_page(self) -> None:
        try:
            page = self.server.page()
        except ForecastError as error:
            self.send_error(503, explain=str(error))
            return
        except Exception:
            # Its text may quote a row.
            self.send_error(503, explain="The database of icu-forecast does not answer.")
            return
        self.send_response(200)
        for name, value in {**_HEADERS, "Content-Length": str(len(page))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""
