"""A folder of clips served to a browser on this machine, while they are recorded."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from pathlib import Path
from urllib.parse import quote, unquote

from ..errors import OutputError
from ..storage.files import open_ordinary
from .folder import FolderIndex, FolderReader, FoundClip
from .page import Sources, policy_of_server, state_of, to_card, to_page
from .strips import Pictures, make_pictures

ADDRESS = "127.0.0.1"
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names that a browser on this machine has for it. Any port: it may be forwarded."""
_READ_S = 0.5
"""Time for which one reading of the folder is good [s]."""
_MOST_PICTURES = 600
"""Clips whose pictures are kept in memory."""
_BLOCK_NBYTES = 2**18
_HEAD_NBYTES = 2048
"""A segment that is shorter holds no frame yet: its description alone takes half of that."""
_IDLE_S = 60.0
_MOST_CONNECTIONS = 64
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_HOST = re.compile(r"(\[::1\]|[^:\[\]]*)(:\d{1,5})?", re.ASCII)


class GalleryServer(ThreadingHTTPServer):
    """Serves one folder on the loopback interface; `serve_forever` to begin, `shutdown` to end.

    Args:
        folder: Of clips.
        port: 0: one that is free; see `address`.

    Raises:
        OutputError: the folder can't be read, or the port not be taken.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.cache = FolderCache(folder.resolve())
        self.connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self.cache.index()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as exc:
            raise OutputError(f"port {port} can't be served on: {exc.strerror or exc}; choose another") from exc

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def process_request(self, request: object, client_address: object) -> None:
        """Answer on a thread of its own, unless too many are at it."""
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]
        else:
            self.shutdown_request(request)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Answer until the connection is closed."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self.connections.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a browser that goes away in the middle is no event, and the screen is not ours."""


class FolderCache:
    """The server's index, page state and pictures of its folder, each kept while it is fresh. For any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reader = FolderReader(folder)
        self._reading = threading.Lock()
        self._seen: tuple[FolderIndex, bytes] | None = None
        self._read_at = 0.0
        self._drawing = threading.Lock()
        self._pictures: OrderedDict[tuple[str, str], Pictures | None] = OrderedDict()

    def index(self) -> FolderIndex:
        """Return the index of the folder, half a second old at most. Raises `OutputError`."""
        return self._refreshed()[0]

    def state(self) -> bytes:
        """Return the state that a page polls for, as JSON. Raises `OutputError`."""
        return self._refreshed()[1]

    def _refreshed(self) -> tuple[FolderIndex, bytes]:
        with self._reading:
            if self._seen is None or time.monotonic() - self._read_at > _READ_S:
                found = self._reader.read()
                self._read_at = time.monotonic()
                if self._seen is None or found != self._seen[0]:
                    self._seen = (found, json.dumps(state_of(found)).encode())
            return self._seen

    def find(self, name: str) -> FoundClip | None:
        """Return the clip of a name."""
        return next((found for found in self.index().clips if found.clip.name == name), None)

    def pictures(self, found: FoundClip) -> Pictures | None:
        """Return a clip's pictures; one clip at a time is decoded, as training may want the processors."""
        key = (found.clip.name, picture_version(found))
        with self._drawing:
            if key not in self._pictures:
                self._pictures[key] = make_pictures(self.folder, found)
            self._pictures.move_to_end(key)
            while len(self._pictures) > _MOST_PICTURES:
                self._pictures.popitem(last=False)
            return self._pictures[key]

    @contextmanager
    def open(self, file: str) -> Iterator[BufferedReader | None]:
        """Open a file of a clip that is shown; None for anything else."""
        name = next((one.clip.name for one in self.index().clips if file in (*one.files, one.part)), None)
        if name is None:
            yield None
            return
        try:
            opened = open_ordinary(self.folder / file)
        except OSError:
            yield None
            return
        with opened:
            yield opened


def picture_version(found: FoundClip) -> str:
    """Return another text whenever a clip's pictures have to be made anew; for a growing one not at every look."""
    grown = found.nbytes.bit_length() if found.part and not found.files else 0
    return f"{len(found.files)}-{grown}-{found.clip.state.value}"


def _addresses(found: FoundClip) -> Sources | None:
    if not found.files and (not found.part or found.nbytes < _HEAD_NBYTES):
        return None
    name, version = quote(found.clip.name, safe=""), picture_version(found)
    return Sources(poster=f"./-/poster/{name}?{version}", strip=f"./-/strip/{name}?{version}")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; everything else is refused."""

    server: GalleryServer
    protocol_version = "HTTP/1.1"
    server_version = "stepreel"
    sys_version = ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Answer one request."""
        try:
            self._answer()
        except OutputError as exc:
            self._text(HTTPStatus.INTERNAL_SERVER_ERROR, str(exc))

    do_HEAD = do_GET

    def _answer(self) -> None:
        if not self._is_for_us():
            self._text(HTTPStatus.FORBIDDEN, "this server answers to localhost only")
            return
        path = self.path.partition("?")[0].partition("#")[0]
        kind, _, name = path.removeprefix("/-/").partition("/")
        cache = self.server.cache
        if not path.startswith("/"):
            self._text(HTTPStatus.BAD_REQUEST, "not a path")
        elif path in ("/", "/index.html"):
            page = to_page(cache.index(), _addresses, is_live=True)
            self._bytes(page.encode(errors="replace"), "text/html; charset=utf-8", self._policy())
        elif path == "/-/state":
            self._state(cache.state())
        elif path.startswith("/-/") and kind in ("card", "poster", "strip"):
            self._part_of_clip(kind, unquote(name, errors="replace"))
        else:
            self._file(unquote(path[1:], errors="replace"))

    def _is_for_us(self) -> bool:
        """Return whether the request names this machine: a page of a foreign name that leads here does not."""
        hosts = self.headers.get_all("Host") or []
        match = _HOST.fullmatch(hosts[0].strip().lower()) if len(hosts) == 1 else None
        return bool(match and match[1] in _HOSTS) and self.headers.get("Sec-Fetch-Site") != "cross-site"

    def _state(self, body: bytes) -> None:
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            self._head(HTTPStatus.NOT_MODIFIED, {"ETag": tag})
            return
        self._bytes(body, "application/json", {"ETag": tag})

    def _part_of_clip(self, kind: str, name: str) -> None:
        cache = self.server.cache
        found = cache.find(name)
        if found is None:
            self._text(HTTPStatus.NOT_FOUND, "no such clip")
        elif kind == "card":
            card = to_card(found, _addresses(found), cache.index())
            self._bytes(card.encode(errors="replace"), "text/html; charset=utf-8", self._policy())
        elif pictures := cache.pictures(found):
            jpeg = pictures.poster if kind == "poster" else pictures.strip
            self._bytes(jpeg, "image/jpeg", {"Cache-Control": "private, max-age=3600"})
        else:
            self._text(HTTPStatus.NOT_FOUND, "no picture")

    def _file(self, name: str) -> None:
        with self.server.cache.open(name) as file:
            if file is None:
                self._text(HTTPStatus.NOT_FOUND, "no such clip")
                return
            nbytes = file.seek(0, 2)
            first, last = self._range(nbytes)
            headers = {"Accept-Ranges": "bytes", "Content-Type": "video/mp4"}
            if first > last or first >= nbytes:
                headers["Content-Range"] = f"bytes */{nbytes}"
                self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {**headers, "Content-Length": "0"})
                return
            status = HTTPStatus.OK
            if self._wants_range():
                status = HTTPStatus.PARTIAL_CONTENT
                headers["Content-Range"] = f"bytes {first}-{last}/{nbytes}"
            self._head(status, {**headers, "Content-Length": str(last - first + 1)})
            if self.command == "GET":
                self._send(file, first, last - first + 1)

    def _wants_range(self) -> bool:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        return bool(match and (match[1] or match[2])) and "If-Range" not in self.headers

    def _range(self, nbytes: int) -> tuple[int, int]:
        """Return the first and the last byte asked for; all of them where the header is of a kind not served."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or not self._wants_range():
            return 0, nbytes - 1
        if not match[1]:
            return max(0, nbytes - int(match[2])), nbytes - 1 if int(match[2]) else -1
        return int(match[1]), min(int(match[2]), nbytes - 1) if match[2] else nbytes - 1

    def _send(self, file: BufferedReader, first: int, count: int) -> None:
        file.seek(first)
        while count > 0 and (block := file.read(min(count, _BLOCK_NBYTES))):
            self.wfile.write(block)
            count -= len(block)
        if count:
            self.close_connection = True  # Less than was promised: the file was cut meanwhile.

    def _policy(self) -> dict[str, str]:
        return {"Content-Security-Policy": policy_of_server()}

    def _text(self, status: HTTPStatus, line: str) -> None:
        self._bytes(f"{line}\n".encode(errors="replace"), "text/plain; charset=utf-8", status=status)

    def _bytes(
        self,
        body: bytes,
        content_type: str,
        headers: dict[str, str] | None = None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        self._head(status, {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        standing = {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": "default-src 'none'",
        }
        self.send_response(status)
        for name, value in {**standing, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request that this server knows, in a line of text."""
        self.close_connection = True
        known = code if code in list(HTTPStatus) else HTTPStatus.BAD_REQUEST
        if known == HTTPStatus.NOT_IMPLEMENTED:  # A method: GET and HEAD are served.
            known = HTTPStatus.METHOD_NOT_ALLOWED
        self.request_version = self.protocol_version  # What was asked for may be none, and then gets no status.
        self.command = getattr(self, "command", None) or "GET"
        body = f"{HTTPStatus(known).phrase}\n".encode()
        headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close"}
        if known == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET, HEAD"
        self._head(HTTPStatus(known), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the screen shows the address."""
