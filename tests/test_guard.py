"""pytest tests/test_guard.py: whom the Prefect server answers: its own page and this user's programs, nobody else.

Whoever reaches the API can run code on the workers, so each way in is tried: another origin in a real Chromium, a name
that was bound to 127.0.0.1, requests that browsers send without asking first, another user of the machine.
"""

import asyncio
import os
import socket
import subprocess
import sys
import uuid
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from answering import answering
from asgi import serve
from browser import Browser
from upheld import PATIENCE, asked
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows import ports
from flows.guard import Guard, origin_of, own_origins, policy_of

ELSEWHERE = "evil.example"
JSON = {"content-type": "application/json"}

# What a page can do without a person: each kind of request writes a variable whose name tells which one it was.
ATTACK = """async ([api, name]) => {
  const body = kind => JSON.stringify({name: `${name}_${kind}`, value: kind})
  const send = (kind, init) => fetch(`${api}/variables/`, {method: "POST", ...init}).then(
    answer => `${kind}: ${answer.type} ${answer.status}`, error => `${kind}: ${error.message}`)
  const form = document.createElement("form")
  const frame = document.createElement("iframe")
  frame.name = "answer"
  Object.assign(form, {action: `${api}/variables/`, method: "POST", enctype: "text/plain", target: "answer"})
  const input = document.createElement("input")
  input.name = body("form").replace("}", ', "tags": ["')
  input.value = '"]}'
  form.append(input)
  document.documentElement.append(frame, form)
  form.submit()
  return Promise.all([
    send("json", {body: body("json"), headers: {"content-type": "application/json"}}),
    send("text", {body: body("text"), mode: "no-cors", headers: {"content-type": "text/plain"}}),
    send("blob", {body: new Blob([body("blob")]), mode: "no-cors"}),
    fetch(`${api}/variables/filter`, {method: "POST", body: new Blob(["{}"])}).then(
      answer => `read: ${answer.status}`, error => `read: ${error.message}`),
    new Promise(done => {
      const socket = new WebSocket(`${api.replace("http", "ws")}/events/out`)
      socket.onopen = () => done("socket: open")
      socket.onerror = () => done("socket: refused")
    }),
  ])
}"""


@pytest.fixture(scope="module")
def other_page():
    """The port of another server on this machine, with a page of its own."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *_: object) -> None:
            pass

    with answering(Page) as port:
        yield port


@pytest.fixture(scope="module")
def browser():
    with Browser(resolve=f"MAP {ELSEWHERE} 127.0.0.1") as browser:
        yield browser


def written(up, name):
    """The variables that an attack wrote."""
    return [each["name"] for each in asked(up.api, "variables") if each["name"].startswith(name)]


@pytest.fixture
def name():
    return f"attack_{uuid.uuid4().hex}"


@pytest.mark.browser
@pytest.mark.parametrize(
    ("host", "port", "api_host"),
    [
        ("127.0.0.1", "other", "127.0.0.1"),
        ("localhost", "other", "127.0.0.1"),
        ("localhost", "other", "localhost"),
        (ELSEWHERE, "other", "127.0.0.1"),
        (ELSEWHERE, "same", ELSEWHERE),  # a name that is bound anew to 127.0.0.1: the same origin for the browser
    ],
)
def test_no_other_page_in_a_browser_reads_or_writes(browser, up, other_page, name, host, port, api_host):
    own = urlsplit(up.url).port
    page_port = own if port == "same" else other_page
    with browser.open_page(f"http://{host}:{page_port}/robots", f"http://{api_host}:{own}") as page:
        with page.expect_response(lambda answer: answer.request.is_navigation_request()) as form:  # in its frame
            said = page.evaluate(ATTACK, [f"http://{api_host}:{own}/api", name])
        assert form.value.status == 403
    assert written(up, name) == [], said
    assert not any("200" in each or "201" in each or each == "socket: open" for each in said), said


@pytest.mark.browser
def test_the_page_is_in_no_other_page_s_frame(browser, up, other_page):
    """Framed, its buttons could be pressed by a person who sees something else."""
    with browser.open_page(f"http://127.0.0.1:{other_page}/", up.url) as page:
        with page.expect_response(f"{up.url}/**") as answer:
            page.evaluate(
                "url => document.body.append(Object.assign(document.createElement('iframe'), {src: url}))",
                f"{up.url}/v2/deployments",
            )
        assert answer.value.status == 403


@pytest.mark.browser
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_own_page_works_by_both_names(browser, up, host):
    own = f"http://{host}:{urlsplit(up.url).port}"
    with browser.open_page(own, up.url) as page:
        page.get_by_role("link", name="Deployments", exact=True).first.click()
        page.get_by_text("weekly", exact=True).wait_for()


FROM_ELSEWHERE = (
    {"origin": "https://evil.example", **JSON},
    {"origin": "https://evil.example", "content-type": "text/plain"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://127.0.0.1:1", **JSON},
    {"origin": "http://127.0.0.1.evil.example:{port}", **JSON},
    {"host": "evil.example", **JSON},
    {"host": "evil.example:{port}", **JSON},
    {"host": "127.0.0.1.evil.example:{port}", **JSON},
    {"host": "evil.example:{port}", "origin": "http://evil.example:{port}", **JSON},
    {"host": "", **JSON},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
)
OUR_OWN = (
    {},
    {"host": "localhost:{port}"},
    {"host": "[::1]:{port}"},
    {"origin": "http://127.0.0.1:{port}"},
    {"origin": "http://localhost:{port}"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
)


def to(url, headers):
    """The headers, with the port of the server at `url`."""
    return {key: value.replace("{port}", str(urlsplit(url).port)) for key, value in headers.items()}


def refused(answer):
    assert answer.status_code == 403
    assert answer.text.startswith("refused: expected ")
    assert len(answer.text.splitlines()) == 1
    assert "access-control-allow-origin" not in answer.headers


async def content(scope, receive, send):
    """An application that answers whoever gets through."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def guarded():
    """The address of a server on loopback that has nothing but a guard."""
    with serve(lambda port: Guard(content, own_origins("127.0.0.1", port), password=False)) as url:
        yield url


@pytest.mark.parametrize("headers", FROM_ELSEWHERE, ids=str)
def test_a_request_from_elsewhere_gets_a_line_and_no_further(guarded, headers):
    refused(httpx.post(guarded, content=b"{}", headers=to(guarded, headers)))
    assert httpx.get(guarded, headers=to(guarded, headers)).status_code == 403


@pytest.mark.parametrize("headers", OUR_OWN, ids=str)
def test_the_own_page_and_programs_get_through(guarded, headers):
    assert httpx.post(guarded, json={}, headers=to(guarded, headers)).status_code == 200


def test_two_names_at_once_are_refused():
    """uvicorn refuses them already; another server may not."""
    told = refused_by_guard([(b"host", b"127.0.0.1:4200"), (b"host", b"evil.example")])
    assert told.startswith("refused: expected Host to be one of 127.0.0.1, ")


def test_prefects_server_refuses_what_comes_from_elsewhere(up, name):
    body = f'{{"name": "{name}", "value": 1}}'.encode()
    for headers in FROM_ELSEWHERE:
        given = {"headers": to(up.url, headers), "timeout": PATIENCE}
        refused(httpx.post(f"{up.api}/variables/", content=body, **given))
        assert httpx.get(up.url, **given).status_code == 403
    assert written(up, name) == []


def test_prefects_server_answers_its_own_page_and_programs(up):
    for headers in OUR_OWN:
        given = to(up.url, headers)
        answer = httpx.post(f"{up.api}/variables/filter", json={}, headers=given, timeout=PATIENCE)
        assert answer.status_code == 200
        assert answer.headers.get("access-control-allow-origin") == given.get("origin")


def test_a_socket_from_elsewhere_is_refused(up):
    address = f"{up.api.replace('http', 'ws')}/events/out"
    with connect(address, subprotocols=["prefect"], proxy=None) as own:
        assert own.subprotocol == "prefect"
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        with pytest.raises(InvalidStatus, match="403"), connect(address, origin=origin, proxy=None):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_of_this_machine_is_refused(up):
    def curl(*behind):
        ask = [*behind, "curl", "--silent", "--noproxy", "*", "--max-time", "20", f"{up.api}/health"]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout

    assert curl() == "true"
    refused = curl("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups")
    assert refused.startswith("refused: expected a process of user root, found one of user 12345")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_user_who_does_not_wait_for_the_answer_is_refused(up, name):
    """A connection that its process has closed belongs to nobody; the kernel's table says root."""
    port = urlsplit(up.url).port
    body = f'{{"name": "{name}", "value": 1}}'
    program = (
        "import socket, sys\n"
        "for _ in range(20):\n"
        "    with socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as at: at.sendall(sys.argv[2].encode())"
    )
    request = f"POST /api/variables/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    another = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    subprocess.run([*another, "/usr/bin/env", "python3", "-c", program, str(port), request], check=True)
    assert httpx.get(f"{up.api}/health").json() is True
    assert written(up, name) == []


@pytest.mark.slow
def test_the_server_beside_a_run_is_guarded_too(tmp_path):
    """In a folder of its own that has a package `flows`: the server runs the code of its parent."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/__init__.py").write_text("raise SystemExit('not this one')")
    program = (
        "import sys; from flows.server import prefect_api\n"
        "with prefect_api() as api:\n"
        "    api.wait()\n"
        "    from prefect.settings import PREFECT_API_URL\n"
        "    print(PREFECT_API_URL.value(), flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[1]
    run = subprocess.Popen(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{program}"],
        cwd=tmp_path,
        env={**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    api = run.stdout.readline().strip()
    try:
        assert httpx.post(f"{api}/flow_runs/filter", json={}).status_code == 200
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example"}):
            assert httpx.post(f"{api}/flow_runs/filter", json={}, headers=headers).status_code == 403
    finally:
        run.communicate("", timeout=60)


@pytest.mark.parametrize(
    ("password", "headers", "status"),
    [
        (True, {"host": "prefect.example", "origin": "https://prefect.example"}, 200),
        (True, {"host": "127.0.0.1:4200", "origin": "https://prefect.example"}, 200),  # the proxy says its own name
        (True, {"host": "server:4200"}, 200),
        (True, {"host": "server:4200", "origin": "http://server:4200"}, 200),
        (True, {"host": "server:4200", "origin": "https://evil.example"}, 403),
        (False, {"host": "prefect.example"}, 403),  # a proxy runs as another user: without a password nobody is told
        (False, {"host": "server:4200"}, 403),
    ],
)
def test_behind_a_proxy_the_password_decides(password, headers, status):
    async def ask():
        guard = Guard(content, own_origins("127.0.0.1", 4200) | {"https://prefect.example"}, password)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard, client=("127.0.0.1", 9))) as client:
            return await client.get("http://127.0.0.1:4200/", headers=headers)

    answer = asyncio.run(ask())
    assert answer.status_code == status
    assert status == 200 or "PREFECT_SERVER_" in answer.text


@pytest.mark.parametrize(
    ("configured", "sent"),
    [
        ("https://review.example:443/", "https://review.example"),
        ("http://review.example:80", "http://review.example"),
        ("HTTPS://Review.Example.", "https://review.example"),
        ("https://review.example", "https://review.example."),
        ("https://b\u00fccher.example/page", "https://xn--bcher-kva.example"),
        ("http://review.example:443", "http://review.example:443"),
        ("http://[::1]:80/", "http://[::1]"),
    ],
)
def test_an_address_is_known_as_a_browser_tells_it(configured, sent):
    async def ask(origin):
        guard = Guard(content, {origin_of(configured)}, password=True)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard, client=("127.0.0.1", 9))) as client:
            return (await client.post("http://server:4200/", headers={"Origin": origin})).status_code

    assert asyncio.run(ask(sent)) == 200
    for other in (f"{sent}:8443", f"ftp{sent.removeprefix('http')}", "https://evil.example", "null", "https://[", ""):
        assert asyncio.run(ask(other)) == 403


def test_pages_are_told_to_ask_nobody_but_the_server_by_its_names():
    """Policies can't name an IPv6 address: Chromium would pass over it, and say so on every page."""
    policy = policy_of(own_origins("127.0.0.1", 4200) | {"https://prefect.example"})
    [connect] = [each for each in policy.split("; ") if each.startswith("connect-src")]
    assert connect.split()[1:] == [
        "'self'",
        "http://127.0.0.1:4200",
        "http://localhost:4200",
        "https://prefect.example",
        "ws://127.0.0.1:4200",
        "ws://localhost:4200",
        "wss://prefect.example",
    ]


@pytest.mark.parametrize("policy", ["default-src 'self'", None])
def test_a_guard_sets_the_policy_of_an_application_that_has_none(policy):
    async def ask():
        guard = Guard(content, own_origins("127.0.0.1", 4200), password=True, policy=policy)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard, client=("127.0.0.1", 9))) as client:
            return (await client.get("http://127.0.0.1:4200/")).headers.get("content-security-policy")

    assert asyncio.run(ask()) == policy


def test_a_server_at_the_port_of_its_scheme_knows_its_own_page():
    assert "http://127.0.0.1" in own_origins("127.0.0.1", 80)


def refused_by_guard(headers):
    """What a guard says of a request from a connection that is not there any more."""
    said = []

    async def say(message):
        said.append(message)

    scope = {"type": "http", "headers": headers, "client": None, "server": ("127.0.0.1", 4200)}
    asyncio.run(Guard(None, own_origins("127.0.0.1", 4200), password=False)(scope, None, say))
    assert said[0]["status"] == 403
    return said[1]["body"].decode()


def test_a_connection_that_was_reset_is_refused_and_no_error():
    """Whoever resets a connection at once has no address any more: uvicorn then says that the client is None."""
    assert "found one that can't be told" in refused_by_guard([(b"host", b"127.0.0.1:4200")])


@pytest.mark.parametrize("way", [ports._asked, ports._looked_up])
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_tells_whose_a_connection_is(way, family, host):
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
        server.accept()[0] as accepted,
    ):
        here, there = ((ip_address(end[0]), end[1]) for end in (client.getsockname(), accepted.getsockname()))
        inode = os.fstat(client.fileno()).st_ino
        assert way(here, there) == (os.geteuid(), inode)
        assert ports.user_of(client.getsockname()[:2], accepted.getsockname()[:2]) == os.geteuid()
        client.close()
        assert ports.user_of((host, here[1]), (host, there[1])) is None
    assert way(here, (there[0], 1)) is None
