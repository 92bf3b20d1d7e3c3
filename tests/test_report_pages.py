"""pytest tests/test_report_pages.py: whole reports, opened by a link, for whom the review page answers."""

import httpx
import pytest
from browser import Browser
from reviewed import draw_folder, guesses, publish_table, served

from artifacts.refs import Ref
from artifacts.settings import Settings
from tasks.reports.pages import address_of, gallery, page
from tasks.reports.pictures import data_uri
from tasks.reports.scoring import opening
from tasks.results import Scored

ITEMS = 6
# What a name of a stranger might be, if it were ever written unescaped.
EVIL = (
    "<script>document.title = 'taken'</script>"
    "<img src='http://evil.example/1.png' onerror=\"document.title='taken'\">"
    "<form action='/api/session' method=post><button>go</button></form>"
    "<section class=cell id=c0-1><h3>one cell</h3></section><a href='#c0-1'>to it</a>"
)


@pytest.fixture
def night(store, tmp_path):
    """A table with a report that holds a picture, and what no report should."""
    draw_folder(tmp_path / "photos", ITEMS)
    picture = data_uri((tmp_path / "photos/000000.png").read_bytes(), "png")
    report = page("Predictions of night", [gallery([(picture, "circle", "000000.png")]), EVIL])
    return publish_table(store, tmp_path / "photos", "night", guesses(ITEMS), report={"report.html": report})


@pytest.fixture
def url(store, night):
    with served(Settings(store=str(store.disk.root))) as url:
        yield url


def test_a_published_report_is_served_as_it_was_written(store, night, url):
    answer = httpx.get(address_of(night, f"{url}/"))
    assert answer.content == store.open(night).read("report.html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    [policy] = answer.headers.get_list("content-security-policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert policy.endswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_nothing_else_is_served(store, night, url, tmp_path):
    without = publish_table(store, tmp_path / "photos", "bare", guesses(ITEMS, seed=1))
    weights = Ref.parse(store.open(night).identity["inputs"]["weights"])
    (tmp_path / "secret.html").write_text("secret")
    for path in (
        weights.folder,
        without.folder,
        f"predictions/night/{'0' * 16}",
        f"predictions/night/{night.version[:8]}",
        f"predictions/other/{night.version}",
        f"{night.folder}/report.html",
        f"{night.folder}/data/part-00000.parquet",
        f"predictions/night/{night.version}%2F..%2F{night.version}",
        "predictions/..%2F..%2Fsecret/0000",
        f"predictions/%2e%2e/{night.version}",
        f"..%2Fpredictions/night/{night.version}",
        "metrics/night%00/0000",
        "",
    ):
        answer = httpx.get(f"{url}/reports/{path}")
        assert answer.status_code in (404, 422), path
        assert answer.headers["content-type"] != "text/html; charset=utf-8"
    assert httpx.post(f"{url}/reports/{night.folder}", content=b"").status_code == 405


def test_a_damaged_report_is_not_shown(store, night, url):
    damaged = store.disk.root / night.folder / "report.html"
    damaged.chmod(0o644)
    damaged.write_text("somebody else's")
    answer = httpx.get(address_of(night, url))
    assert answer.status_code == 500
    assert "report.html" in answer.json()["detail"]


def test_it_is_answered_to_whom_the_review_page_is(store, night, url):
    for headers in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}):
        assert httpx.get(address_of(night, url), headers=headers).status_code == 403
    followed = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "document"}  # a link on Prefect's page
    assert httpx.get(address_of(night, url), headers=followed).status_code == 200
    with served(Settings(store=str(store.disk.root)), password="open sesame") as guarded:
        assert httpx.get(address_of(night, guarded)).status_code == 401
        assert httpx.get(address_of(night, guarded), auth=("ann", "open sesame")).status_code == 200


@pytest.mark.browser
def test_in_a_browser_no_script_of_it_runs_and_its_pictures_and_links_work(night, url):
    address = address_of(night, url)
    with Browser() as browser, browser.open_page(address, url) as opened:
        answered, refused = [], {}
        opened.on("response", lambda answer: answered.append(answer.url))
        opened.on("requestfailed", lambda request: refused.update({request.url: request.failure}))
        opened.reload()
        assert opened.title() == "Predictions of night"
        assert opened.locator(".gallery img").evaluate("image => image.naturalWidth") == 16
        assert opened.locator(".gallery").evaluate("each => getComputedStyle(each).display") == "flex"
        assert not opened.locator("#c0-1").is_visible()
        opened.get_by_role("link", name="to it").click()
        assert opened.locator("#c0-1").is_visible()
        opened.get_by_role("button", name="go").click()
        assert {each for each in answered if not each.startswith("data:")} == {address}
        assert refused == {"http://evil.example/1.png": "csp"}
        assert opened.title() == "Predictions of night"


def test_the_artifact_links_to_it_where_there_is_an_address(night):
    result = Scored(str(night), "/store/predictions/night/data", ITEMS, ITEMS, 0, {}, {}, 1.0, 1.0)
    linked = opening("night", result, "https://review.example/")
    assert f"[The whole report](https://review.example/reports/predictions/night/{night.version})" in linked
    assert "](" not in opening("night", result, None)
    assert "`report.html`" in opening("night", result, None)
