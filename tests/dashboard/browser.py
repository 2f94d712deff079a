"""A real Chromium without a window, driven through Debian's chromedriver."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.job.real_jobs import wait_until

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
WHY_NOT = (
    ""
    if CHROMIUM and DRIVER
    else "needs Chromium and its driver: apt-get install chromium chromium-driver"
)


class Browser:
    """One window; it is asked for what a person would see."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900, dark: bool = False):
        options = Options()
        options.binary_location = CHROMIUM or ""
        for argument in (
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            "--no-sandbox",  # Root and containers have none; only pages of ours are opened.
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(30)
        self._requested: list[str] = []
        self.size(width, height)
        if dark:
            self.prefer("prefers-color-scheme", "dark")

    def size(self, width: int, height: int, scale: float = 1) -> None:
        """Lay the page out as on a screen of this size."""
        screen = {
            "width": width,
            "height": height,
            "deviceScaleFactor": scale,
            "mobile": width < 600,
        }
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def prefer(self, feature: str, value: str) -> None:
        features = [{"name": feature, "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, url: str) -> None:
        self.driver.get(url)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """The text of the first that matches, shown or not; empty where there is none."""
        script = "return document.querySelector(arguments[0])?.textContent ?? ''"
        return self.js(script, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)"
        return self.js(script, selector)

    def labels(self, selector: str) -> list[str]:
        """What screen readers say of all that match."""
        script = "return [...document.querySelectorAll(arguments[0])].map(one => one.ariaLabel)"
        return self.js(script, selector)

    def heard(self) -> list[dict[str, str]]:
        """`role` and `name` of everything as a screen reader is told of it."""
        tree = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
        return [
            {"role": one["role"]["value"], "name": one.get("name", {}).get("value", "")}
            for one in tree["nodes"]
            if not one["ignored"]
        ]

    def count(self, selector: str) -> int:
        return self.js("return document.querySelectorAll(arguments[0]).length", selector)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def until(self, what: str, condition: Any, deadline_s: float = 30.0) -> Any:
        return wait_until(what, condition, deadline_s)

    def complaints(self) -> list[str]:
        """What the page wrote to its console since the last time: errors and warnings."""
        found = self.driver.get_log("browser")
        return [one["message"] for one in found if one["level"] in ("SEVERE", "WARNING")]

    def requested(self) -> list[str]:
        """Every address that the page asked for so far."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requested.append(message["params"]["request"]["url"])
        return self._requested

    def forget(self) -> None:
        """Ask no more about what was requested and complained of so far."""
        self.complaints()
        self.requested()
        self._requested.clear()

    def hosts(self) -> set[str]:
        return {urlsplit(one).netloc for one in self.requested() if one.startswith(("http", "ws"))}

    def save(self, path: Path) -> None:
        """Save a picture of the window."""
        path.write_bytes(self.driver.get_screenshot_as_png())

    def nodes(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def close(self) -> None:
        self.driver.quit()
