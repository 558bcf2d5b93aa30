"""`stepreel view` of a folder, and what it answers."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .evidence import require
from .harness import ROOT, Try


@contextmanager
def viewed(one: Try, ambush: dict[str, Any] | None = None) -> Iterator[int]:
    """Serve the folder; yield the port."""
    command = [sys.executable, "-m", "stepreel.cli", "view", str(one.folder)]
    environment = {**one.environment(ambush), "PYTHONUNBUFFERED": "1"}
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


def ask(port: int, path: str, host: str | None = None, *, method: str = "GET") -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
