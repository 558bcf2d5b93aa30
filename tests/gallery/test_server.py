"""What the server of a folder answers, and to whom."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepreel.errors import OutputError
from stepreel.gallery.server import GalleryServer

from .conftest import manifest_of

CLIP = "rl-video-step-0"
FILE = f"{CLIP}.000.mp4"


@contextmanager
def serving(folder: Path) -> Iterator[GalleryServer]:
    with GalleryServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(recorded: Path) -> Iterator[GalleryServer]:
    with serving(recorded) as server:
        yield server


def ask(server: GalleryServer, path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body; `path` goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def ask_raw(server: GalleryServer, request: bytes) -> bytes:
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:  # type: ignore[arg-type]
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_only_this_machine_can_reach_it(server: GalleryServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/"


def test_the_page_is_served_with_a_strict_policy(server: GalleryServer) -> None:
    status, headers, body = ask(server, "/")
    assert status == 200
    assert CLIP.encode() in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:99", "LOCALHOST:1"])
def test_it_answers_to_names_of_this_machine(server: GalleryServer, host: str) -> None:
    assert ask(server, "/-/state", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "", "0.0.0.0"],
)
def test_a_foreign_name_that_leads_here_is_refused(server: GalleryServer, host: str) -> None:
    for path in ("/", "/-/state", f"/{FILE}", f"/-/card/{CLIP}"):
        status, _, body = ask(server, path, Host=host)
        assert status == 403
        assert CLIP.encode() not in body


def test_no_host_and_two_hosts_are_refused(server: GalleryServer) -> None:
    assert ask_raw(server, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert ask_raw(server, two).startswith(b"HTTP/1.1 403 ")


def test_a_page_of_another_site_gets_nothing(server: GalleryServer) -> None:
    assert ask(server, f"/{FILE}", Sec_Fetch_Site="cross-site")[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_only_get_and_head_are_served(server: GalleryServer, method: str) -> None:
    status, headers, _ = ask(server, "/", method=method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/-/state", f"/{FILE}", f"/-/card/{CLIP}", f"/-/poster/{CLIP}", "/nothing"])
def test_head_tells_what_get_would(server: GalleryServer, path: str) -> None:
    status, headers, body = ask(server, path)
    head_status, head_headers, head_body = ask(server, path, method="HEAD")
    assert (head_status, head_headers["Content-Length"], head_body) == (status, str(len(body)), b"")
    assert head_headers["Content-Type"] == headers["Content-Type"]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-", 0, -1),
        ("0-0", 0, 0),
        ("10-19", 10, 19),
        ("-5", -5, -1),
        ("5-99999999999", 5, -1),
        ("-99999999999", 0, -1),
    ],
)
def test_a_range_is_served(server: GalleryServer, recorded: Path, asked: str, first: int, last: int) -> None:
    whole = (recorded / FILE).read_bytes()
    status, headers, body = ask(server, f"/{FILE}", Range=f"bytes={asked}")
    first, last = first % len(whole), last % len(whole)
    assert (status, body) == (206, whole[first : last + 1])
    assert headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"
    assert headers["Content-Type"] == "video/mp4"


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=5-2", "bytes=-0"])
def test_a_range_that_is_not_there_is_refused(server: GalleryServer, recorded: Path, asked: str) -> None:
    status, headers, body = ask(server, f"/{FILE}", Range=asked)
    assert (status, body) == (416, b"")
    assert headers["Content-Range"] == f"bytes */{(recorded / FILE).stat().st_size}"


@pytest.mark.parametrize("asked", ["bytes=-", "bytes=1-2,5-6", "pages=1-2", "bytes=a-b", "bytes=" + "9" * 5000 + "-"])
def test_a_range_of_another_kind_gets_the_whole_file(server: GalleryServer, recorded: Path, asked: str) -> None:
    status, headers, body = ask(server, f"/{FILE}", Range=asked)
    assert (status, body) == (200, (recorded / FILE).read_bytes())
    assert headers["Accept-Ranges"] == "bytes"


@pytest.fixture
def folder(tmp_path: Path, recorded: Path) -> Path:
    """A copy of the clips, beside a secret."""
    (tmp_path / "secret.mp4").write_text("secret")
    return Path(shutil.copytree(recorded, tmp_path / "videos"))


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.mp4",
        "/%2e%2e/secret.mp4",
        "/..%2fsecret.mp4",
        "/%2e%2e%2fsecret.mp4",
        "//secret.mp4",
        "/./../secret.mp4",
        "/..\\secret.mp4",
        "/session.json",
        "/session.jsonl",
        "/rl-video-step-0.json",
        "/.stepreel.lock",
        "/linked.mp4",
        "/rl-video-step-900.mp4",
        "/pipe.mp4",
        "/folder.mp4",
        "/others.mp4",
        "/%00",
        "/rl-video-step-0.000.mp4%00.txt",
        "/-/card/..%2f..%2fsecret",
        "/-/poster/..%2fsecret",
        "/-/nothing",
        "/-/",
        "/etc/passwd",
    ],
)
def test_nothing_but_segments_of_clips_is_served(folder: Path, path: str) -> None:
    for name in ("linked", "rl-video-step-900", "pipe", "folder"):
        (folder / f"{name}.json").write_text(manifest_of(name))
    (folder / "linked.mp4").symlink_to(folder.parent / "secret.mp4")
    (folder / "rl-video-step-900.mp4").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "others.mp4").write_text("secret")
    with serving(folder) as server:
        status, _, body = ask(server, path)
        assert status == 404
        assert b"secret" not in body
        assert b"root:" not in body


def test_a_file_that_becomes_a_link_is_not_followed(folder: Path) -> None:
    with serving(folder) as server:
        assert ask(server, f"/{FILE}")[0] == 200
        (folder / FILE).unlink()
        (folder / FILE).symlink_to(folder.parent / "secret.mp4")
        assert ask(server, f"/{FILE}")[0] == 404


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
    ],
    ids=lambda request: request[:24],
)
def test_what_is_no_request_is_refused_and_the_next_one_is_served(
    server: GalleryServer, request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = ask_raw(server, request_)
    assert answer.split(b" ", 2)[1].startswith((b"4", b"5"))
    assert b"Traceback" not in answer
    assert ask(server, "/-/state")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_browser_that_goes_away_leaves_no_trace(server: GalleryServer, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(server.server_address[:2]) as connection:  # type: ignore[arg-type]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(f"GET /{FILE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert ask(server, "/-/state")[0] == 200
    assert capfd.readouterr().err == ""


def test_more_connections_than_are_served_are_closed_and_the_next_one_is_served(recorded: Path) -> None:
    with serving(recorded) as server:
        held = [socket.create_connection(server.server_address[:2], timeout=20) for _ in range(70)]  # type: ignore[arg-type]
        closed = held[-1].recv(1)
        for connection in held:
            connection.close()
        assert closed == b""
        for _ in range(1000):
            try:
                assert ask(server, "/-/state")[0] == 200
                break
            except (http.client.HTTPException, ConnectionError):
                continue  # Those that were closed are still being let go of.
        else:
            pytest.fail("it serves nobody any more")


def test_what_did_not_change_is_not_sent_again(server: GalleryServer) -> None:
    status, headers, body = ask(server, "/-/state")
    assert status == 200
    names = [name for name, _ in json.loads(body)["clips"]]
    assert names == ["rl-video-step-200", "rl-video-step-100", CLIP]
    status, _, body = ask(server, "/-/state", If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")


def test_pictures_are_jpegs(server: GalleryServer) -> None:
    for kind in ("poster", "strip"):
        status, headers, body = ask(server, f"/-/{kind}/{CLIP}?1")
        assert (status, headers["Content-Type"], body[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")
    assert ask(server, "/-/poster/nothing")[0] == 404


def test_a_port_that_is_taken_is_named(server: GalleryServer, recorded: Path) -> None:
    port = int(server.server_address[1])
    with pytest.raises(OutputError, match=f"port {port} can't be served on"):
        GalleryServer(recorded, port)


def test_a_folder_that_goes_away_is_told_and_not_fatal(folder: Path) -> None:
    with serving(folder) as server:
        shutil.rmtree(folder)
        server.cache._read_at = 0.0
        status, _, body = ask(server, "/")
        assert status == 500
        assert b"can't be read" in body
