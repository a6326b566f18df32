"""A real browser: Chromium without a window, driven by playwright-core in Node.

    visit([Visit("http://127.0.0.1:8025/", "#tiles li")], tmp_path)

Each visit goes to an address in the same tab, waits until an element is there, and says what a person would see. Fails
with Node's words when the element does not come; `missing` says why there is no browser, if there is none.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tests.support.clients import NODE_MODULES, PATIENCE_S, run_program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DRIVER = NODE_MODULES.parent / "browser" / "node_modules" / "playwright-core"
PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")

SCRIPT = """
const {chromium} = require(process.argv[1]);
const {program, profile, visits, patience, width} = JSON.parse(process.argv[2]);
const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'];
(async () => {
  const browser = await chromium.launchPersistentContext(profile,
    {executablePath: program, headless: true, args: flags, viewport: {width, height: 768}, timeout: patience});
  const page = await browser.newPage();
  const complaints = [];
  page.on('console', (said) => { if (['error', 'warning'].includes(said.type())) complaints.push(said.text()); });
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('requestfailed', (request) => complaints.push(`${request.url()}: ${request.failure().errorText}`));
  const pages = [];
  for (const {address, until, text, click, picture} of visits) {
    if (address) await page.goto(address);
    if (click) await page.click(click);
    await page.locator(until, text ? {hasText: text} : {}).first().waitFor({timeout: patience});
    if (picture) await page.screenshot({path: picture, fullPage: true});
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    pages.push({text: await page.locator('body').innerText(), address: page.url(), overflow: wide});
  }
  await browser.close();
  console.log(JSON.stringify({pages, complaints}));
})().catch((error) => { console.error(error); process.exit(1); });
"""


@dataclass(frozen=True)
class Visit:
    """`address`: "" to stay; `click`: then there; `until`: an element that is waited for, with this text in it;
    `picture`: a file for a picture of the whole page."""

    address: str
    until: str
    text: str = ""
    click: str = ""
    picture: str = ""


@dataclass(frozen=True)
class Seen:
    """`text` of what is visible; `overflow`: by how many pixels the page is wider than the window."""

    text: str
    address: str
    overflow: int


def missing() -> str:
    """Why there is no browser; empty when there is one."""
    if shutil.which("node") is None or not DRIVER.exists():
        return "playwright-core is not installed (.ci/install-peers)"
    return "" if PROGRAM else "Chromium is not installed (Debian: chromium)"


def visit(visits: Sequence[Visit], folder: Path, width: int = 1366) -> tuple[list[Seen], list[str]]:
    """What was seen at each, and whatever the browser complained of meanwhile. folder: for its profile."""
    request = {
        "program": PROGRAM,
        "profile": str(folder / "browser"),
        "visits": [asdict(one) for one in visits],
        "patience": PATIENCE_S * 500,
        "width": width,
    }
    said = json.loads(run_program(["node", "-e", SCRIPT, str(DRIVER), json.dumps(request)], HOME=str(folder)))
    return [Seen(**page) for page in said["pages"]], said["complaints"]
