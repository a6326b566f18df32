"""The console's files: served, complete, and without a way to put a mail's markup into the page."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import angarium

Connect = Callable[..., httpx.AsyncClient]
STATIC = Path(angarium.__file__).parent / "admin" / "static"


async def test_the_page_and_what_it_refers_to_are_served(connect: Connect) -> None:
    client = connect([])
    page = await client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    own = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert len(own) == 2
    for path in own:
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(("text/javascript", "text/css"))


@pytest.mark.parametrize("name", ["api.py", "..%2fapi.py", "%2e%2e/api.py", "none.js"])
async def test_no_other_file_is_served(connect: Connect, name: str) -> None:
    assert (await connect([]).get(f"/static/{name}")).status_code == 404


def test_every_element_the_script_looks_up_is_in_the_page() -> None:
    page = (STATIC / "index.html").read_text()
    wanted = set(re.findall(r'\$\("([a-z-]+)"\)', (STATIC / "console.js").read_text()))
    assert wanted
    assert wanted <= set(re.findall(r'id="([a-z-]+)"', page))


@pytest.mark.parametrize("name", ["index.html", "console.css", "console.js"])
def test_nothing_is_loaded_from_elsewhere(name: str) -> None:
    assert not re.search(r"https?://|@import|url\(", (STATIC / name).read_text())


def test_text_from_outside_never_becomes_markup() -> None:
    script = (STATIC / "console.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)
    # the one frame for a mail's HTML is sandboxed without any permission, and has a policy of its own
    assert script.count("srcdoc") == 1
    assert 'frame.setAttribute("sandbox", "");' in script
    assert "Content-Security-Policy" in script
