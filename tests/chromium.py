"""A headless Chromium, driven over a pipe by its own protocol: no driver, no library.

with Browser(path_of_chromium, folder) as browser:
    page = browser.open(file, width=390, dark=True)
    page.value("document.title")
    page.screenshot(file)
    page.complaints, page.requests
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_S = 60.0
_HAND_OVER = """
import os, sys
ends = [os.dup(int(one)) for one in sys.argv[1:3]]  # so that neither is overwritten below
while min(ends) < 5:
    ends = [os.dup(one) for one in ends]
os.dup2(ends[0], 3)  # the protocol's pipe is descriptors 3 and 4
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """Find the program; None where it is not installed."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Browser:
    """One process, and what it says.

    Args:
        program: Chromium.
        profile: A folder that it may fill.
    """

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HAND_OVER, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(_PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(
        self, file: Path, *, width: int, height: int = 900, dark: bool = False, scripts: bool = True
    ) -> "Page":
        """Open a file in a page of its own.

        Args:
            file: The file.
            width: Of the page, in CSS pixels; below 500 as on a phone.
            height: Of what is seen of it.
            dark: Whether whoever looks prefers dark colours.
            scripts: Whether the page may run its own.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.call("Page.navigate", url=file.as_uri())
        page.wait_for("Page.loadEventFired")
        return page

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        message = {**asked, "sessionId": session} if session else asked
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            heard = self.hear()
            if heard.get("id") == self._number:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']}")
                return dict(heard["result"])
            self.events.append(heard)

    def hear(self) -> dict[str, Any]:
        """Wait for the next thing that it says."""
        deadline = time.monotonic() + _PATIENCE_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._in, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError(f"Chromium says nothing (exit {self._process.poll()}).")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the page for something."""
        return self._browser.call(method, self._session, **parameters)

    def wait_for(self, event: str) -> None:
        """Wait until something has happened."""
        while not any(one.get("method") == event for one in self._mine()):
            self._browser.events.append(self._browser.hear())

    def value(self, expression: str) -> Any:
        """Give the value of an expression of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def move_to(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press a key, such as ArrowRight or Tab."""
        for kind in ("rawKeyDown", "keyUp"):
            codes = {
                "Tab": 9,
                "Enter": 13,
                "End": 35,
                "Home": 36,
                "ArrowLeft": 37,
                "ArrowRight": 39,
            }
            code = codes[key]
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def screenshot(self, file: Path) -> None:
        """Take a picture of the whole page."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    @property
    def complaints(self) -> list[str]:
        """What the console says: errors and warnings, and scripts that failed."""
        said = []
        for event in self._mine():
            parameters = event.get("params", {})
            if event["method"] == "Log.entryAdded":
                said.append(str(parameters["entry"]["text"]))
            elif event["method"] == "Runtime.exceptionThrown":
                said.append(json.dumps(parameters["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                said.append(json.dumps(parameters["args"]))
        return said

    @property
    def requests(self) -> list[str]:
        """What the page asked for, itself included."""
        return [
            str(event["params"]["request"]["url"])
            for event in self._mine()
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _mine(self) -> list[dict[str, Any]]:
        """Give what was said of this page."""
        return [one for one in self._browser.events if one.get("sessionId") == self._session]
