"""Pages that are made of a folder: who may look at them, and what they are made of."""

from __future__ import annotations

import html
import json
import re
import socket
import subprocess

from .. import evidence
from ..browsing import ask, viewed
from ..evidence import require
from ..harness import NotHereError, Try, has_command
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
    """Record two clips, and have every text about them carry markup, the name of another one, too."""
    config = {"fps": 30, "video_length": 10, "video_interval": 10}
    one.start(config=config, steps=20).end_well()
    for path in [*evidence.manifests(one.folder), one.folder / "session.json"]:
        found = json.loads(path.read_bytes())
        for name in ("stream", "backend", "codec"):
            found[name] = _MARKUP
        if "host" in found:
            found["host"] = {"name": _MARKUP, "program": f"</script>{_MARKUP}"}
        path.write_text(json.dumps(found))
    named = {**json.loads(evidence.manifests(one.folder)[0].read_bytes()), "clip": _MARKUP, "segments": []}
    (one.folder / f"{_MARKUP}.json").write_text(json.dumps(named))
    with open(one.folder / "session.jsonl", "a") as log:
        log.write(json.dumps({"event": _MARKUP, "level": "warning", _MARKUP: _MARKUP}) + "\n")
    (one.scratch / "secret").write_text("not for you")
    (one.folder / "link.mp4").symlink_to(one.scratch / "secret")


def _check_page(page: str, what: str) -> None:
    require("<html" in page, f"{what} is no page")
    require(_MARKUP not in page, f"{what} repeats markup from a file")
    require(html.escape(_MARKUP) in page, f"{what} does not show what the file says")
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


def _other_addresses() -> set[str]:
    """Return addresses of this machine that others can reach."""
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    return {address for address in found if "." in address and not address.startswith("127.")}


@row("`stepreel view` serves this machine only, the folder only, and pages that ask no other host.", tries=1)
def view_of_a_folder(one: Try) -> int:
    if not has_command("view"):
        raise NotHereError("there is no stepreel view")
    _record(one)
    with viewed(one) as port:
        status, page = ask(port, "/")
        require(status == 200, f"the page is answered with {status}")
        _check_page(page.decode(), "the page")
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0", ""):
            status, _ = ask(port, "/", host)
            require(status >= 400, f"asked as {host!r}, it answers {status}")
        for path in _PATHS:
            status, answer = ask(port, path)
            require(status >= 400, f"{path} is answered with {status}")
            require(b"not for you" not in answer, f"{path} leads out of the folder")
        _check_address(port)
        require(ask(port, "/")[0] == 200, "it serves no more after all that")
    one.nothing_runs()
    return 0


def _check_address(port: int) -> None:
    for address in _other_addresses():
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError:
            continue
        require(False, f"it can be reached at {address}")
