"""pytest tests/test_strangers.py: pages and programs ask nobody but the server."""

import os
import pty
import subprocess
from urllib.parse import urlsplit

import pytest
from browser import Browser, fill, open_deployment, open_form, open_run, read_report, submit
from commands import COMMAND
from playwright.sync_api import expect
from strangers import way_to_strangers
from upheld import delete, post

# What a page asks for and its policy refuses: the directive, and what was asked for.
REFUSALS = """
addEventListener("securitypolicyviolation", event => {
  const kept = JSON.parse(sessionStorage.getItem("refused") || "[]")
  sessionStorage.setItem("refused", JSON.stringify([...kept, [event.effectiveDirective, event.blockedURI]]))
})"""
SOCKET = """url => new Promise(done => {
  const socket = new WebSocket(url)
  socket.onopen = () => done("open")
  socket.onerror = () => done("refused")
})"""


@pytest.fixture(scope="module")
def strangers():
    with way_to_strangers() as found:
        yield found


@pytest.fixture(scope="module")
def browser(strangers):
    with Browser(proxy=strangers[0]) as browser:
        yield browser


@pytest.fixture
def page(browser):
    with browser.open_page("about:blank") as page:
        page.add_init_script(REFUSALS)
        yield page


def refused(page):
    """What the policy refused so far, of the pages of this tab."""
    return [tuple(each) for each in page.evaluate("JSON.parse(sessionStorage.getItem('refused') || '[]')")]


PATHS = ("dashboard", "runs", "flows", "deployments", "work-pools", "blocks", "automations", "events", "settings")


@pytest.mark.browser
def test_prefects_pages_ask_nobody_but_the_server(up, page, strangers):
    """That of Prefect 3.8.8 calls an analytics host, whatever settings say, and blocks have logos of elsewhere."""
    for path in PATHS:
        page.goto(f"{up.url}/v2/{path}")
        expect(page.get_by_role("link", name="Deployments", exact=True).first).to_be_visible()
        page.wait_for_load_state("networkidle")
    hosts = {urlsplit(what).hostname for _, what in refused(page)}
    assert "sr-client-cfg.amplitude.com" in hosts, "the page asks nobody by itself: the policy may go"
    page.goto(f"{up.url}/docs")
    page.wait_for_load_state("networkidle")
    assert strangers[1] == []


@pytest.mark.browser
def test_prefects_pages_have_what_they_need(up, page, strangers):
    """A form, the run that it starts with its graph, logs and reports, and a socket."""
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(up.url)
    open_deployment(page, "collect/sundays")
    open_form(page)
    fill(page, "remove", False)
    run = submit(page)
    up.wait(run)
    open_run(page, up.url, run)
    expect(page.locator("canvas")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert page.evaluate(SOCKET, f"{up.api.replace('http', 'ws')}/events/out") == "open"
    read_report(page, "collect-store")
    assert [each for each in refused(page) if not each[1].startswith("https://")] == []
    assert errors == []
    assert strangers[1] == []


@pytest.mark.browser
def test_a_report_shows_no_picture_of_a_stranger_s_server(up, page, strangers):
    """Whoever names a file or a class could otherwise hear when somebody reads about it."""
    markdown = "Seen. ![it](https://elsewhere.example/seen.png)"
    made = post(f"{up.api}/artifacts/", {"key": "seen", "type": "markdown", "data": markdown}).json()
    page.goto(f"{up.url}/v2/artifacts/artifact/{made['id']}")
    expect(page.get_by_test_id("markdown-display")).to_contain_text("Seen.")
    page.wait_for_load_state("networkidle")
    delete(f"{up.api}/artifacts/{made['id']}")
    assert ("img-src", "https://elsewhere.example/seen.png") in refused(page)
    assert strangers[1] == []


@pytest.mark.browser
def test_the_page_that_labels_pictures_asks_nobody_but_the_server(up, page, strangers):
    page.goto(up.review)
    page.wait_for_load_state("networkidle")
    assert refused(page) == []
    assert strangers[1] == []


@pytest.mark.slow
def test_a_first_command_in_a_terminal_tells_strangers_nothing(tmp_path):
    """Prefect would say that somebody has begun to use it; in no terminal it says nothing in any case."""
    untold = ("DO_NOT_TRACK", "CI", "NO_PROXY", "no_proxy")
    with way_to_strangers() as (proxy, asked):
        environment = {
            **{name: value for name, value in os.environ.items() if name not in untold},
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            "PREFECT_HOME": str(tmp_path / "prefect"),
        }
        ours, its = pty.openpty()
        status = subprocess.run([*COMMAND, "deploy"], env=environment, stdout=its, stderr=its, timeout=300).returncode
        os.close(its)
        said = os.read(ours, 10_000).decode()
        os.close(ours)
    assert status == 1
    assert "expected a Prefect server, found neither PREFECT_API_URL nor a `lookbook up`" in " ".join(said.split())
    assert asked == []
    assert "telemetry" not in said
