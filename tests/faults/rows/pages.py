"""Pages that are made of a folder: who may look at them, and what they are made of."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .. import evidence
from ..evidence import require
from ..harness import ROOT, NotHereError, Try, has_command
from ..matrix import row

_MARKUP = "<img src=x onerror=alert(1)>"
_OUTWARD = re.compile(r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import""", re.I)
"""How a page has a browser ask another host; not what it says in a text."""
_PATHS = (
    "/../scratch/secret",
    "/%2e%2e/scratch/secret",
    "/..%2fscratch%2fsecret",
    "/..%5cscratch%5csecret",
    "//scratch/secret",
    "/-/strip/../../scratch/secret",
    "/-/poster/%2e%2e%2f%2e%2e%2fscratch%2fsecret",
    "/link.mp4",
    "/session.json%00.mp4",
    "/" + "../" * 30 + "etc/hostname",
    "/" + "%2e%2e/" * 30 + "etc/hostname",
)


def _record(one: Try) -> None:
    """Record two clips, and have every text about them carry markup."""
    config = {"fps": 30, "video_length": 10, "video_interval": 10}
    one.start(config=config, steps=20).end_well()
    for path in [*evidence.manifests(one.folder), one.folder / "session.json"]:
        found = json.loads(path.read_bytes())
        for name in ("stream", "backend", "codec"):
            found[name] = _MARKUP
        if "host" in found:
            found["host"] = {"name": _MARKUP, "program": f"</script>{_MARKUP}"}
        path.write_text(json.dumps(found))
    (one.scratch / "secret").write_text("not for you")
    (one.folder / "link.mp4").symlink_to(one.scratch / "secret")


def _check_page(page: str, what: str) -> None:
    require("<html" in page, f"{what} is no page")
    require(_MARKUP not in page, f"{what} repeats markup from a file")
    require(not _OUTWARD.search(page), f"{what} asks other hosts: {_OUTWARD.findall(page)[:3]}")


@row("A gallery's page asks no other host, and whatever a file says of itself is text on it.", tries=1)
def gallery_of_markup(one: Try) -> int:
    if not has_command("gallery"):
        raise NotHereError("there is no stepreel gallery")
    _record(one)
    before = evidence.fingerprint(one.folder)
    status, output = one.command("gallery", str(one.folder))
    require(status == 0, f"gallery exits {status}: {output[-2000:]}")
    _check_page((one.folder / "index.html").read_text(), "index.html")
    after = evidence.fingerprint(one.folder)
    require(after.pop("index.html", None) and after == before, "gallery changed other files than its page")
    return 0


@contextmanager
def _viewed(one: Try) -> Iterator[int]:
    """Serve the folder; yield the port."""
    command = [sys.executable, "-m", "stepreel.cli", "view", str(one.folder)]
    environment = {**one.environment(), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        require(found, "view did not say where it serves")
        assert found is not None
        yield int(found[1])
        process.send_signal(signal.SIGINT)
        require(process.wait(10) == 0, f"view ended with status {process.returncode} after Ctrl-C")
    finally:
        process.kill()
        process.wait()


def _ask(port: int, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _other_addresses() -> set[str]:
    """Return addresses of this machine that others can reach."""
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    return {address for address in found if "." in address and not address.startswith("127.")}


@row("`stepreel view` serves this machine only, the folder only, and pages that ask no other host.", tries=1)
def view_of_a_folder(one: Try) -> int:
    if not has_command("view"):
        raise NotHereError("there is no stepreel view")
    _record(one)
    with _viewed(one) as port:
        status, page = _ask(port, "/")
        require(status == 200, f"the page is answered with {status}")
        _check_page(page.decode(), "the page")
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0", ""):
            status, _ = _ask(port, "/", host)
            require(status >= 400, f"asked as {host!r}, it answers {status}")
        for path in _PATHS:
            status, answer = _ask(port, path)
            require(status >= 400, f"{path} is answered with {status}")
            require(b"not for you" not in answer, f"{path} leads out of the folder")
        _check_address(port)
        require(_ask(port, "/")[0] == 200, "it serves no more after all that")
    one.nothing_runs()
    return 0


def _check_address(port: int) -> None:
    for address in _other_addresses():
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError:
            continue
        require(False, f"it can be reached at {address}")
