"""A headless browser, spoken to over two pipes in the protocol of its developer tools."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
# Chromium reads commands from descriptor 3 and writes answers to 4, each ended by a NUL.
START = 'exec 3<&0 4>&1 >/dev/null 2>&1 </dev/null; exec "$0" "$@"'


class Browser(AbstractContextManager["Browser"]):
    """Chromium with one page."""

    def __init__(self, profile: Path) -> None:
        """Start it, with its profile in a directory of the test."""
        command = [
            *("bash", "-c", START, "chromium", "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-dev-shm-usage", "--remote-debugging-pipe", "--window-size=1200,800"),
            *("--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"),
            "about:blank",
        ]
        # What it leaves when it is killed; the path of a socket there is short.
        self._left = tempfile.TemporaryDirectory(prefix="browser-")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": self._left.name},
        )
        self._number = 0
        self._session = ""
        self._rest = b""
        self.said: list[dict[str, Any]] = []
        """What it has told unasked."""
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.ask("Target.attachToTarget", {"targetId": page, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __exit__(self, *_error: object) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._left.cleanup()

    def ask(self, method: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a command; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": dict(parameters or {})}
        if self._session:
            message["sessionId"] = self._session
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.said.append(answer)

    def _next(self) -> dict[str, Any]:
        """Return the next message."""
        deadline = time.monotonic() + PATIENCE_S
        assert self._process.stdout
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            assert left > 0, "the browser says nothing"
            if select.select([self._process.stdout], [], [], left)[0]:
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                assert chunk, "the browser has ended"
                self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        result: dict[str, Any] = json.loads(message)
        return result

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is there."""
        self.ask("Page.navigate", {"url": path.as_uri()})
        deadline = time.monotonic() + PATIENCE_S
        while self.value("document.readyState + location.href") != f"complete{path.as_uri()}":
            assert time.monotonic() < deadline, "the page does not load"

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        asked = {"expression": expression, "returnByValue": True}
        result = self.ask("Runtime.evaluate", asked)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.ask("Input.insertText", {"text": text})

    def click(self, x: float, y: float) -> None:
        """Click at a place."""
        for kind in ("mousePressed", "mouseReleased"):
            place = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", place)

    def wheel(self, x: float, y: float, by: float) -> None:
        """Turn the wheel at a place."""
        place = {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": by}
        self.ask("Input.dispatchMouseEvent", place)

    def picture(self, path: Path) -> None:
        """Save what it shows."""
        shot = self.ask("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(shot))

    def complaints(self) -> list[dict[str, Any]]:
        """Return errors, what the page's policy has refused, and what was asked of a network."""
        found = []
        for message in self.said:
            method = message.get("method", "")
            url = str(message.get("params", {}).get("request", {}).get("url", "file:"))
            is_remote = method == "Network.requestWillBeSent" and not url.startswith("file:")
            if is_remote or method in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                found.append(message)
            if method.startswith("Page.javascriptDialog"):
                found.append(message)
        return found
