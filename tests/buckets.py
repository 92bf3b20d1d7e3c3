"""An S3 service for tests, on loopback, and a proxy before it that misbehaves."""

import base64
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a-test", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_EC2_METADATA_DISABLED": "1"}
KEYS_A_REQUEST = 100  # that this service lists, where others list a thousand

_SERVER = """
import base64, datetime, json, logging, sys, threading
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
# moto looks whether a key is there, and then writes it; a service that honours conditional writes does both at once.
put, turn = S3Response.put_object, threading.Lock()
def put_in_turn(response):
    with turn:
        return put(response)
S3Response.put_object = put_in_turn
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
objects = s3_backends["123456789012"]["aws"]
for line in sys.stdin:
    bucket, key, content, written = json.loads(line)
    if content is None:
        objects.delete_object(bucket, key)
    else:
        written_now = objects.put_object(bucket, key, base64.b64decode(content))
        if written:
            written_now.last_modified = datetime.datetime.fromisoformat(written)
    print("done", flush=True)
server.stop()
"""


class S3:
    """moto's server, in a process of its own: it draws random numbers, which tests of this process may do alone."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(KEYS_A_REQUEST)},
        )  # fmt: skip
        self.url = self._process.stdout.readline().strip()
        assert self.url, "moto didn't start"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def put(self, bucket, key, content, written=None):
        """Write an object as no HTTP client can: past the service's own look at its key, and `written` at any time (ISO
        8601, UTC)."""
        self._do(bucket, key, base64.b64encode(content).decode(), written)

    def delete(self, bucket, key):
        self._do(bucket, key, None, None)

    def _do(self, *given):
        self._process.stdin.write(f"{json.dumps(given)}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


def options_for(url):
    """LOOKBOOK_STORE_OPTIONS for the service at `url`."""
    return json.dumps({"endpoint": url, "region": "us-east-1", "allow_http": "true"})


def make_bucket(url, name):
    httpx.put(f"{url}/{name}").raise_for_status()


class Proxy:
    """Passes requests on to `url`. `faults` says what becomes of a request, by its method and path: None, or

    - lost: it is passed on, and its answer isn't;
    - stall: its answer doesn't come for as long as it is waited for;
    - reset: it isn't passed on;
    - cut: the answer breaks off half-way;
    - unconditional, unmarked: it is passed on without its condition, or without its metadata;
    - (status, code, ...): that is the answer, with what else is in its body.
    """

    FAULTS = ("lost", "reset", (503, "SlowDown"), (500, "InternalError"), "cut")

    def __init__(self, url, faults=lambda method, path: None, latency=0.0):
        self.asked, self.faulty = Counter(), 0
        self._asked_again = threading.Condition()
        self.faults, self.latency = faults, latency
        host, port = url.removeprefix("http://").split(":")

        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                fault = proxy.faults(self.command, self.path)
                with proxy._asked_again:
                    proxy.asked[self.command] += 1
                    proxy.faulty += fault is not None
                    proxy._asked_again.notify_all()
                time.sleep(proxy.latency)
                if isinstance(fault, tuple):
                    content = f"<Error><Code>{fault[1]}</Code>{''.join(fault[2:])}</Error>".encode()
                    self.send_response(fault[0])
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(content)
                    return
                if fault == "reset":
                    self.hang_up()
                    return
                dropped = {"unconditional": "if-none-match", "unmarked": "x-amz-meta-lookbookwriter"}
                if fault in dropped:
                    del self.headers[dropped[fault]]
                upstream = HTTPConnection(host, int(port), timeout=60)
                with contextlib.closing(upstream):
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    found = upstream.getresponse()
                    content = found.read()
                if fault == "stall":
                    self.rfile.read(1)  # nothing comes, until whoever asked hangs up
                if fault in ("lost", "stall"):
                    self.hang_up()
                    return
                self.send_response(found.status)
                for name, value in found.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                        self.send_header(name, value)
                size = found.getheader("content-length") if self.command == "HEAD" else str(len(content))
                self.send_header("content-length", size or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
                if fault == "cut":
                    self.hang_up()

            def hang_up(self):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # clients that gave up
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def wait_for_requests(self, number):
        """Until so many more have come."""
        with self._asked_again:
            number += self.asked.total()
            assert self._asked_again.wait_for(lambda: self.asked.total() >= number, 120), "nobody asks any more"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def sometimes(share, seed, kinds=Proxy.FAULTS):
    """Faults for a share of all requests."""
    drawn = random.Random(seed)
    lock = threading.Lock()

    def fault(_method, _path):
        with lock:
            return drawn.choice(kinds) if drawn.random() < share else None

    return fault
