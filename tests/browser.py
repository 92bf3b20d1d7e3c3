"""Prefect's pages, driven as a person does it: clicks and typing in a real Chromium (Prefect 3.8.8's second UI)."""

import asyncio
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Response, expect, sync_playwright
from playwright.sync_api import TimeoutError as NotInTime
from waiting import SECONDS, eventually

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Milliseconds: where other tests keep the machine busy, a page asks its server again for many seconds.
PATIENT = 60_000
expect.set_options(timeout=PATIENT)
FINAL = ", ".join(f"[class*=bg-state-{state}]" for state in ("completed", "failed", "crashed", "cancelled"))


class Browser:
    """A Chromium for pages one after another, each in a context of its own. Close it at the end.

    Playwright's event loop runs in the thread that uses it, whoever has the turn: asyncio is told of it only while a
    page is open, or else no other test could run a loop there meanwhile.

    resolve: how names are resolved: MAP NAME ADDRESS.
    proxy: URL of what is asked for all that is not on this machine. Pages then may ask for anything.
    """

    def __init__(self, resolve: str = "", proxy: str = "") -> None:
        flags = [*FLAGS, f"--host-resolver-rules={resolve}"] if resolve else FLAGS
        flags = [*flags, f"--proxy-server={proxy}"] if proxy else flags
        self._anywhere = bool(proxy)
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell"), args=flags
        )
        self._loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        with self._running():
            self._chromium.close()
            self._playwright.stop()

    @contextmanager
    def open_page(
        self, url: str, *others: str, device: str = "", phone: tuple[int, int] | None = None
    ) -> Iterator[Page]:
        """A new page at `url`, which can reach nothing but that and `others`: it must work without the internet.

        device: what is pretended, such as `Pixel 7`; phone: width and height of a screen that is touched; by default a
        large screen.
        """
        reachable = (url, *others, "data:", "blob:")
        screen = self._playwright.devices[device] if device else _screen(phone)
        with self._running(), self._chromium.new_context(**screen, reduced_motion="reduce") as context:
            if not self._anywhere:
                context.route(lambda to: not to.startswith(reachable), lambda route: route.abort())
            page = context.new_page()
            page.set_default_timeout(PATIENT)
            page.goto(url)
            yield page

    @contextmanager
    def _running(self) -> Iterator[None]:
        asyncio._set_running_loop(self._loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)


def _screen(phone: tuple[int, int] | None) -> dict[str, Any]:
    width, height = phone or (1280, 1000)
    touched = {"has_touch": True, "is_mobile": True} if phone else {}
    return {"viewport": {"width": width, "height": height}, **touched}


@contextmanager
def open_page(url: str, *others: str) -> Iterator[Page]:
    """A page in a browser of its own."""
    with Browser() as browser, browser.open_page(url, *others) as page:
        yield page


def open_deployment(page: Page, name: str) -> None:
    """From any page: Deployments, search, the deployment called `name`: its flow's, a slash, its own."""
    flow, _, called = name.partition("/")
    page.get_by_role("link", name="Deployments", exact=True).first.click()
    page.get_by_role("textbox", name="Search deployments").fill(called)
    page.wait_for_url("**flowOrDeploymentName=**")  # the search waits for a pause in typing, and undoes earlier clicks
    rows = page.get_by_role("row").filter(has=page.get_by_role("link", name=flow, exact=True))
    link = rows.locator("a[href*='/deployments/deployment/']").filter(has_text=re.compile(f"^{re.escape(called)}$"))
    expect(link).to_have_count(1)
    link.click()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()


def open_form(page: Page) -> None:
    """Run, Custom run, from a deployment's page."""
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_role("button", name="Submit")).to_be_visible()


def field(page: Page, name: str) -> Locator:
    """One parameter's part of the form: label, description, control and error."""
    label = page.locator("label[data-slot=label]", has_text=re.compile(rf"^{re.escape(name)}( \(Optional\))?$"))
    return page.locator("form div:has(> fieldset)").filter(has=label)


def fill(page: Page, name: str, value: object) -> None:
    """Set one parameter: a number, a text, an optional one, a switch or a choice."""
    block = field(page, name)
    expect(block).to_be_visible()  # the fields are drawn after the form
    if isinstance(value, bool):
        block.get_by_role("switch").set_checked(value)
    elif (choice := block.get_by_role("button", name=re.compile("^Select "))).count():
        option = page.get_by_role("option", name=str(value), exact=True)
        eventually(lambda: _chosen(choice, option), f"{value} chosen for {name}")
    else:
        block.locator("textarea, input").first.fill(str(value))


def _chosen(choice: Locator, option: Locator) -> bool:
    """Whether a press reached the option. A form that is drawn anew closes its list; a person opens it again."""
    if not option.is_visible():
        choice.click()
    try:
        option.click(timeout=5_000)
    except NotInTime:
        return False
    return True


def _submitted(page: Page) -> Response:
    """The answer to a press on Submit: the new run's, or that of the check before it when this failed."""
    with page.expect_response(
        lambda answer: "/create_flow_run" in answer.url or ("/schemas/validate" in answer.url and not answer.ok)
    ) as made:
        page.get_by_role("button", name="Submit").click()
    return made.value


def submit(page: Page) -> str:
    """Press Submit, and leave the page: one that shows a run that works takes a processor of its own. The run's id."""
    until = time.monotonic() + SECONDS
    while (made := _submitted(page)).status >= 500:  # SQLite is busy; a person presses again
        assert time.monotonic() < until, made.text()
    run = str(made.json()["id"])
    page.goto("about:blank")
    return run


def open_run(page: Page, url: str, run: str) -> str:
    """The page of a run that has ended: its state, as it stands there. url: of Prefect's pages."""
    page.goto(f"{url}/v2/runs/flow-run/{run}")
    badge = page.locator("nav[aria-label=breadcrumb] + div [data-slot=badge]").and_(page.locator(FINAL))
    badge.wait_for()
    return badge.inner_text().strip()


def state_message(page: Page) -> str:
    """What the Details of a finished run say about its state."""
    page.get_by_role("tab", name="Details").click()
    term = page.get_by_role("tabpanel", name="Details").locator("dt", has_text="State Message")
    return term.locator("xpath=following-sibling::dd[1]").inner_text().strip()


def read_report(page: Page, key: str) -> dict[str, Any]:
    """From a run's page: Artifacts, the card called `key`, the newest of its history. Gives the report's text, rows of
    cells, and the widths that its pictures were drawn in (0: not drawn)."""
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("tabpanel", name="Artifacts").get_by_role("link", name=re.compile(rf"{key}(?!-)")).click()
    page.locator("[data-testid^=timeline-card-]").first.locator("a[href*='/artifacts/artifact/']").click()
    page.wait_for_url("**/artifacts/artifact/**")  # the history shows the beginnings of reports, too
    return page.wait_for_function(REPORT).json_value()


# What is drawn on the page of a report, once it has words and all pictures are there. At one moment: it is drawn anew.
REPORT = """() => {
  const report = document.querySelector("[data-testid=markdown-display]")
  if (!report || !/\\w/.test(report.innerText) || ![...document.images].every(image => image.complete)) return null
  return {
    text: report.innerText,
    rows: [...report.querySelectorAll("tr")].map(row => [...row.cells].map(cell => cell.innerText.trim())),
    images: [...report.querySelectorAll("img")].map(image => image.naturalWidth),
  }
}"""


def screenshot(page: Page, path: Path) -> None:
    """The whole page, once its notices are gone."""
    page.mouse.move(0, 0)  # a notice below the mouse stays
    page.locator("[data-sonner-toast]").first.wait_for(state="hidden")
    height = max(1000, page.evaluate("document.documentElement.scrollHeight"))
    page.set_viewport_size({"width": 1280, "height": height})
    page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    page.screenshot(path=path, animations="disabled")
    page.set_viewport_size({"width": 1280, "height": 1000})
