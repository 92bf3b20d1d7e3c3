"""pytest tests/test_settings.py: what the environment says: settings, AWS's own variables and files, proxies."""

import json
import os
from pathlib import Path

import httpx
import pytest
from buckets import CREDENTIALS, make_bucket
from commands import complaint
from PIL import Image

from artifacts.aws import read_aws
from artifacts.disks import disk_at
from artifacts.errors import StoreError
from artifacts.proxies import reach_loopback_directly
from artifacts.services import with_aws
from artifacts.settings import Settings
from tasks.cluster.conducting import shared_environment
from tasks.vision.downloads import https
from tasks.vision.errors import SourceError

VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION",
             "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", *CREDENTIALS)  # fmt: skip
PATHS = ("store", "home", "cache", "dataset_mirror", "image_roots")


def test_every_path_of_the_settings_has_its_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LOOKBOOK_{name.upper()}", raising=False)
    for name in PATHS:
        given = json.dumps({"photos": "~/x"}) if name == "image_roots" else "~/x"
        monkeypatch.setenv(f"LOOKBOOK_{name.upper()}", given)
    found = Settings().model_dump()
    assert all(str(tmp_path / "x") in str(found[name]) and "~" not in str(found[name]) for name in PATHS)
    paths = {name for name, value in found.items() if isinstance(value, Path)}
    folders = {name for name, each in Settings.model_fields.items() if str(each.description).startswith("Folder")}
    assert paths | folders | {"home"} == set(PATHS), "a new path belongs to PATHS"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("s3://bucket/~x", "s3://bucket/~x"), ("a/~b", "a/~b"), ("/a//b", "/a//b"), ("store", "store")],
)
def test_other_places_stay_as_they_are(monkeypatch, given, expected):
    monkeypatch.setenv("LOOKBOOK_STORE", given)
    assert Settings().store == expected


def test_the_home_of_nobody_is_told(lookbook):
    run = lookbook("list", LOOKBOOK_CACHE="~nobody-of-that-name/x")
    assert "the setting LOOKBOOK_CACHE can't be '~nobody-of-that-name/x'" in run.stderr


def test_options_are_json(monkeypatch):
    monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", '{"allow_http": true, "virtual_hosted": false, "region": "x"}')
    assert Settings().store_options == {"allow_http": "true", "virtual_hosted": "false", "region": "x"}


def test_a_truth_is_true_or_false(bucket, monkeypatch):
    monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", '{"allow_http": "yes"}')
    with pytest.raises(
        StoreError, match="expected allow_http to be true or false in LOOKBOOK_STORE_OPTIONS, found 'yes'"
    ):
        disk_at(bucket)


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """Nothing of AWS's is set; writes the two files of ~/.aws."""
    for name in ("LOOKBOOK_STORE_OPTIONS", *VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOOKBOOK_CACHE", str(tmp_path / "cache"))
    (tmp_path / ".aws").mkdir()

    def write(config="", credentials=""):
        (tmp_path / ".aws/config").write_text(config)
        (tmp_path / ".aws/credentials").write_text(credentials)

    return write


KEYS = "aws_access_key_id = a-test\naws_secret_access_key = not-a-secret\n"


@pytest.mark.parametrize(
    ("variables", "config", "credentials"),
    [
        ({"AWS_ENDPOINT_URL": "URL", **CREDENTIALS}, "", ""),
        ({"AWS_ENDPOINT_URL_S3": "URL", "AWS_ENDPOINT_URL": "http://127.0.0.1:1", **CREDENTIALS}, "", ""),
        ({}, "[default]\nregion = us-east-1\nendpoint_url = URL\n", f"[default]\n{KEYS}"),
        ({"AWS_PROFILE": "shop"}, "[default]\nendpoint_url = http://127.0.0.1:1\n[profile shop]\nendpoint_url = URL\n",
         f"[shop]\n{KEYS}"),
        ({"AWS_PROFILE": "my shop"},
         '[profile   "my shop"]\nservices = a b\n[services "a b"]\ns3 =\n  endpoint_url = URL\n', f"[my shop]\n{KEYS}"),
        ({}, f"[default]\nservices = here\n{KEYS}[services here]\ns3 =\n  endpoint_url = URL\n", ""),
        ({"AWS_CONFIG_FILE": "~/.aws/credentials"}, "", f"[default]\nendpoint_url = URL\n{KEYS}"),
        ({"AWS_ENDPOINT_URL": "URL"}, "[default]\nendpoint_url = http://127.0.0.1:1\n", f"[default]\n{KEYS}"),
    ],
)  # fmt: skip
def test_a_bucket_is_where_other_tools_find_it(aws, s3, monkeypatch, variables, config, credentials):
    make_bucket(s3, "found-by-aws")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("URL", s3))
    aws(config.replace("URL", s3), credentials.replace("URL", s3))
    disk = disk_at("s3://found-by-aws/place")
    disk.replace("a", b"1")
    assert disk.read("a") == b"1"
    assert list(disk.list("")) == ["a"]
    shared = shared_environment(Settings(store="s3://found-by-aws/place"))
    assert json.loads(shared["LOOKBOOK_STORE_OPTIONS"])["endpoint"] == s3
    assert "not-a-secret" not in str(shared) + repr(read_aws())


def test_what_we_say_ourselves_goes_before(aws, s3, monkeypatch):
    aws("[default]\nregion = there\nendpoint_url = http://127.0.0.1:1\ns3 =\n  addressing_style = virtual\n")
    said = read_aws()
    expected = {"region": "there", "endpoint": "http://127.0.0.1:1", "allow_http": "true", "virtual_hosted": "true"}
    assert said.options == expected
    assert with_aws({"region": "here"}, said) == {**expected, "region": "here"}
    ours = with_aws({"endpoint": "https://here", "virtual_hosted": "false"}, said)
    assert ours == {"region": "there", "endpoint": "https://here", "virtual_hosted": "false"}
    monkeypatch.setenv("AWS_REGION", "elsewhere")
    assert read_aws().options["region"] == "elsewhere"


def test_keys_of_the_environment_go_before_those_of_a_profile(aws, monkeypatch):
    aws("", f"[default]\n{KEYS}aws_session_token = t\n")
    assert set(read_aws().keys) == {"access_key_id", "secret_access_key", "token"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    assert read_aws().keys == {}


def test_a_file_that_cannot_be_read_stops_nobody_who_has_keys(aws, monkeypatch, tmp_path):
    (tmp_path / ".aws/config").mkdir()
    with pytest.raises(StoreError, match=r"can't read .*/.aws/config: Is a directory"):
        read_aws()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    assert read_aws().keys == {}
    monkeypatch.setenv("AWS_CONFIG_FILE", "~/.aws/config")
    with pytest.raises(StoreError, match=r"can't read .*/.aws/config: Is a directory"):
        read_aws()


@pytest.mark.parametrize(
    ("variables", "config", "told"),
    [
        ({"AWS_PROFILE": "shop"}, "[default]\n", "expected the profile shop of AWS_PROFILE in ~/.aws/config or"),
        ({}, "[default]\nsso_session = x\n", "found sso_session, which needs AWS's own tools; .* export-credentials"),
        ({}, "[default]\nrole_arn = x\n" + KEYS, "found role_arn, which needs AWS's own tools"),
        ({}, "aws_secret_access_key = not-a-secret\n", "expected profiles in .*/.aws/config, found something else"),
        ({}, "", "expected credentials for s3://b/x in the environment .* or a profile of ~/.aws, found none"),
        (CREDENTIALS, "[default]\nendpoint_url = http://me:hunter2@here\n", "expected an endpoint .*http://...@here"),
    ],
)
def test_what_no_file_of_aws_should_say_is_told(aws, monkeypatch, variables, config, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    aws(config)
    with pytest.raises(StoreError, match=told) as raised:
        disk_at("s3://b/x")
    assert "not-a-secret" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.slow
def test_socks_for_what_is_elsewhere_harms_nothing_on_loopback(lookbook_process, tmp_path):
    """A server beside a run has answered, and the flow has run until it misses a champion."""
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    proxies = {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    run = lookbook_process("score", tmp_path, PREFECT_API_URL="", **proxies)
    assert "nothing in the store" in complaint(run)


def test_an_ipv6_address_in_brackets_is_passed_by(monkeypatch):
    """httpx, which asks Prefect's server, raises for it; a command ended by an unexpected InvalidURL."""
    monkeypatch.setenv("no_proxy", "[fd00::1], there.example")
    reach_loopback_directly()
    httpx.Client().close()
    assert os.environ["NO_PROXY"] == "fd00::1,there.example,127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("name", "proxy", "found"),
    [
        ("ALL_PROXY", "socks4://127.0.0.1:9", "socks4://"),
        ("https_proxy", "foo://me:hunter2@127.0.0.1:9", "foo://"),
        ("HTTP_PROXY", "http://127.0.0.1:port", "no address"),
    ],
)
def test_a_proxy_that_nothing_can_use_is_told_before_any_work(lookbook, tmp_path, name, proxy, found):
    (tmp_path / "a.png").touch()
    told = complaint(lookbook("score", tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api", **{name: proxy}))
    assert f"expected a proxy as http://host:port or socks5://host:port in {name}, found {found}; mend or unset" in told
    assert "hunter2" not in told


def test_a_store_in_a_bucket_on_loopback_is_reached_beside_socks(bucket, lookbook):
    variables = {
        **dict.fromkeys(("HTTP_PROXY", "http_proxy", "no_proxy", "NO_PROXY"), ""),
        "ALL_PROXY": "socks5://127.0.0.1:9",
    }
    assert lookbook("list", "--json", LOOKBOOK_STORE=bucket, **variables).stdout == "[]\n"


def test_a_bucket_elsewhere_is_not_reached_past_a_proxy(aws, monkeypatch):
    for name, value in {**CREDENTIALS, "ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    aws()
    with pytest.raises(StoreError, match="expected a proxy as http://host:port .* found socks5://; .* in NO_PROXY"):
        disk_at("s3://b/x")


def test_a_download_by_a_proxy_that_nothing_can_use_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:9")
    with pytest.raises(SourceError, match="can't be asked for by what HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names"):
        https("https://somewhere.example/file", tmp_path / "file", 1, lambda *_: None)
