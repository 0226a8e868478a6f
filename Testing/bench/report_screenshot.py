"""Takes the README's picture of an evaluation's report in Chromium: `python Testing/bench/report_screenshot.py IN OUT`.

IN is a report.html, OUT a .png file; it shows the page from its top to the pictures of the first case.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
import time
from pathlib import Path

WIDTH = 1366
END = "document.querySelector('.detail-body').getBoundingClientRect().bottom + scrollY + 8"


def main() -> None:
    from selenium import webdriver

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=WIDTH)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        chrome = webdriver.ChromeOptions()
        chrome.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
        for argument in (
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}",
        ):
            chrome.add_argument(argument)
        browser = webdriver.Chrome(options=chrome, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if options.dark else "light"}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
            size = {"width": options.width, "height": 3000, "deviceScaleFactor": 1, "mobile": options.width < 600}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(options.report.resolve().as_uri())
            while not browser.execute_script("return document.querySelector('.detail-body .plane')"):
                time.sleep(0.2)
            height = browser.execute_script(f"return {END}")
            clip = {"x": 0, "y": 0, "width": options.width, "height": height, "scale": 1}
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
        finally:
            browser.quit()
    options.picture.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
