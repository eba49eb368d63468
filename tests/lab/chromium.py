"""A headless Chromium for tests, or the reason why there is none.

Debian's, installed if this process may; driven by Playwright from PyPI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def program() -> str | None:
    """Path of a Chromium of this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def provide() -> str:
    """The same; installs Debian's where that may be done.

    Raises:
        LookupError: There is none and none can be had; says why.
    """
    if (found := program()) is not None:
        return found
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise LookupError("no Chromium: as root, apt-get install chromium")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if (found := program()) is None:
        raise LookupError(f"no Chromium: apt-get said {done.stderr.strip()[-300:]!r}")
    return found


@dataclass
class Seen:
    """What a page did while it was open."""

    messages: list[str] = field(default_factory=list)  #: console, errors, dialogs
    requests: list[str] = field(default_factory=list)  #: addresses


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Seen]]:
    """A file in a browser without a network, as Playwright's page."""
    from playwright.sync_api import sync_playwright

    seen = Seen()
    with sync_playwright() as play:
        # No sandbox: containers and root have none to offer.
        browser = play.chromium.launch(
            executable_path=provide(), args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(
            offline=True, viewport={"width": 1150, "height": 900}
        )
        page = context.new_page()
        page.on("console", lambda message: seen.messages.append(message.text))
        page.on("pageerror", lambda error: seen.messages.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))

        def dismiss(dialog: Any) -> None:
            seen.messages.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", dismiss)
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=30_000)
        yield page, seen
        browser.close()
