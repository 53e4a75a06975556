"""Who may ask the server, and how much: strangers, slow and lying requests, crowds, secrets."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import requests
from support.fake_engine import FAKE, SIGNATURE, FakeEngine, process
from support.openeo_server import Client, fake_server, fault, files_with

from kappamask.base.errors import InputError
from kappamask.cli import main
from kappamask.openeo.server import gate
from kappamask.openeo.server.app import listen, serve
from kappamask.openeo.server.settings import TOKEN_VARIABLE, Limits, Settings, read_token

ANYWHERE = "0.0.0.0"  # noqa: S104  told to refuse it
TOKEN = "0123456789abcdef-the-token"  # noqa: S105  of a server that lives for seconds


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with fake_server(tmp_path_factory.mktemp("work")) as found:
        yield found


# --- who may ask ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8080"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Host": "["},
        {"Origin": "http://["},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
    ],
)
def test_without_a_token_no_web_page_gets_in(client, headers):
    answer = client.ask("get", "/jobs", headers=headers)
    assert answer.status_code in {400, 403}  # h11 itself refuses an empty Host
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_without_a_token_any_name_and_password_is_accepted(client):
    token = client.ask("get", "/credentials/basic", auth=("me", "anything")).json()["access_token"]
    headers = {"Authorization": f"Bearer basic//{token}"}
    assert client.ask("get", "/me", headers=headers).json()["user_id"] == "local"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with fake_server(tmp_path_factory.mktemp("work"), token=TOKEN) as found:
        yield found


def basic(password):
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (None, (401, "AuthenticationRequired")),
        ("Bearer basic//guess", (403, "TokenInvalid")),
        (f"Bearer basic//{TOKEN[:-1]}", (403, "TokenInvalid")),
        (f"Bearer basic//{TOKEN}x", (403, "TokenInvalid")),
        ("Bearer", (403, "TokenInvalid")),
        ("Bearer \u00e9", (403, "TokenInvalid")),
        (basic("guess"), (403, "CredentialsInvalid")),
        ("Basic !!", (403, "CredentialsInvalid")),
        (f"Digest {TOKEN}", (403, "AuthenticationSchemeInvalid")),
    ],
)
def test_with_a_token_nothing_goes_without_it(guarded, shown, expected):
    headers = {} if shown is None else {"Authorization": shown.encode("latin-1")}
    for method, path in [("get", "/jobs"), ("post", "/result"), ("get", "/processes"),
                         ("post", "/validation"), ("put", "/process_graphs/a"), ("get", "/nowhere"),
                         ("get", "//"), ("get", "/jobs/")]:  # fmt: skip
        assert fault(guarded.ask(method, path, headers=headers)) == expected
    assert guarded.ask("get", "/", headers=headers).ok  # what a client asks before it logs in
    assert guarded.ask("get", "/.well-known/openeo", headers=headers).ok


@pytest.mark.parametrize("shown", [f"Bearer basic//{TOKEN}", f"Bearer {TOKEN}", basic(TOKEN)])
def test_the_token_opens_the_server(guarded, shown):
    assert guarded.ask("get", "/jobs", headers={"Authorization": shown}).json()["jobs"] == []


def test_with_a_token_pages_may_ask(guarded):
    preflight = {
        "Origin": "https://editor.openeo.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    answer = guarded.ask("options", "/jobs", headers=preflight)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
    answer = guarded.ask("get", "/jobs", headers={"Origin": "https://editor.openeo.org"})
    assert answer.status_code == 401
    assert "OpenEO-Identifier" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.slow
def test_links_to_results_work_by_themselves_until_they_expire(guarded, monkeypatch):
    """As the web editor fetches them: without a header; nothing else opens, and not for ever."""
    owner = Client(guarded.url, Authorization=f"Bearer basic//{TOKEN}")
    job = owner.start("write", {"names": ["a.tif", "b.tif"]})
    owner.wait(job)
    results = owner.ask("get", f"/jobs/{job}/results").json()
    href, other = (results["assets"][name]["href"] for name in ("a.tif", "b.tif"))
    page = {"Origin": "https://editor.openeo.org"}
    answer = guarded.ask("get", href, headers=page)
    assert (answer.content, answer.headers["Access-Control-Allow-Origin"]) == (b"xxx", "*")
    assert guarded.ask("head", href).ok
    (canonical,) = (link["href"] for link in results["links"] if link["rel"] == "canonical")
    assert guarded.ask("get", canonical).json()["id"] == job
    query = href.partition("?")[2]
    for method, path in [("get", other.partition("?")[0] + "?" + query), ("post", href),
                         ("get", f"/jobs/{job}?{query}"),
                         ("get", href.replace("expires=", "expires=9")),
                         ("get", href + "0"), ("get", href.partition("?")[0])]:  # fmt: skip
        assert fault(guarded.ask(method, path)) == (401, "AuthenticationRequired")
    now = time.time()
    assert now < datetime.fromisoformat(results["expires"]).timestamp() < now + 25 * 3600
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 25 * 3600)
    monkeypatch.setattr("kappamask.openeo.server.gate.time", later)
    assert fault(guarded.ask("get", href)) == (410, "ResultLinkExpired")
    monkeypatch.undo()
    assert owner.ask("delete", f"/jobs/{job}").ok
    assert fault(guarded.ask("get", href)) == (404, "JobNotFound")


def test_without_a_token_pages_that_are_named_may_ask(tmp_path):
    editor, evil = "https://editor.openeo.org", "https://evil.example"
    with fake_server(tmp_path, origins=(editor,)) as client:
        preflight = {"Access-Control-Request-Method": "POST",
                     "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
        for origin, status in [(editor, 200), (evil, 400)]:
            answer = client.ask("options", "/jobs", headers={"Origin": origin} | preflight)
            assert answer.status_code == status
        answer = client.ask("get", "/jobs", headers={"Origin": editor})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, editor)
        refused = client.ask("get", "/jobs", headers={"Origin": evil})
        assert fault(refused) == (403, "PermissionsInsufficient")
        assert "Access-Control-Allow-Origin" not in refused.headers
    with pytest.raises(InputError, match="--allow-origin"):
        Settings(FAKE, tmp_path, origins=("editor.openeo.org",))


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [
        ({"host": ANYWHERE}, "no --allow-remote"),
        ({"host": "::"}, "no --allow-remote"),
        ({"host": "server.example"}, "no --allow-remote"),
        ({"host": ""}, "no --allow-remote"),
        ({"host": ANYWHERE, "token": TOKEN}, "no --allow-remote"),
        ({"host": ANYWHERE, "allow_remote": True}, "no token"),
        ({"token": "short"}, "16 to 512"),
        ({"token": "with a space in the middle"}, "16 to 512"),
    ],
)
def test_it_listens_elsewhere_only_with_consent_and_token(tmp_path, settings, lacking):
    with pytest.raises(InputError, match=lacking):
        Settings(FAKE, tmp_path, **settings)


def test_consent_and_token_together_are_enough(tmp_path):
    settings = Settings(FAKE, tmp_path, host=ANYWHERE, port=0, allow_remote=True, token=TOKEN)
    listen(settings).close()
    assert TOKEN not in repr(settings)


def test_beyond_this_machine_it_says_what_that_means(tmp_path):
    said = []

    def say(text):
        said.append(text)
        if len(said) == 2:
            raise KeyboardInterrupt  # in place of serving

    settings = Settings(FAKE, tmp_path, host=ANYWHERE, port=0, allow_remote=True, token=TOKEN)
    with pytest.raises(KeyboardInterrupt):
        serve(settings, engine_factory=FakeEngine, say=say)
    assert "whoever has the token may do what this account may" in said[1]
    assert TOKEN not in "".join(said)


def test_a_port_that_is_taken_is_named(tmp_path):
    with listen(Settings(FAKE, tmp_path, port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}.*in use"):
            listen(Settings(FAKE, tmp_path, port=port))


def test_the_token_comes_from_a_file_or_the_environment_and_does_not_stay_there(
    tmp_path, monkeypatch
):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv(TOKEN_VARIABLE, "from-the-environment")
    assert read_token(file) == TOKEN
    assert TOKEN_VARIABLE not in os.environ
    monkeypatch.setenv(TOKEN_VARIABLE, "from-the-environment")
    assert read_token(None) == "from-the-environment"
    assert read_token(None) is None
    file.write_text("\n")
    with pytest.raises(InputError, match="empty"):
        read_token(file)
    with pytest.raises(InputError, match="must be readable"):
        read_token(tmp_path / "absent")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc of Linux")
def test_the_token_stays_in_no_place_that_code_of_clients_may_read():
    code = f"from {read_token.__module__} import read_token; print(read_token(None))"
    code += "; print(open('/proc/self/environ').read())"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), TOKEN_VARIABLE: TOKEN},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith(f"{TOKEN}\n")
    assert said.count(TOKEN) == 1
    assert TOKEN_VARIABLE in said  # it was looked for in the right place


def test_code_of_clients_does_not_see_the_token_and_one_that_it_found_is_not_told(
    tmp_path, monkeypatch
):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with fake_server(tmp_path / "work", token=read_token(None)) as open_to_all:
        client = Client(open_to_all.url, Authorization=f"Bearer {TOKEN}")
        assert client.compute("token").json() == "not here"
        told = client.compute("read", path=str(file)).text
        job = client.start("read", {"path": str(file)}, log_level="debug")
        assert client.wait(job) == "error"
        told += str(client.logs(job))
    assert told.count("I have read ***") == 3  # answer, traceback, error
    assert TOKEN not in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--catalog", "earth-serch"], "unknown catalogue 'earth-serch': expected one of"),
        (["--catalog", FAKE, "--host", ANYWHERE], "only with --allow-remote and a token"),
    ],
)
def test_the_command_refuses_before_it_does_anything(tmp_path, capsys, options, message):
    assert main(["serve", *options, "--workdir", str(tmp_path / "w")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


# --- slow and lying requests, crowds ---------------------------------------------------------


def with_limits(folder, **limits):
    return fake_server(folder, limits=Limits(**limits))


def connect(client):
    there = urlsplit(client.url)
    return socket.create_connection((there.hostname, there.port), timeout=20)


def head(client, *, length):
    return (
        f"POST /result HTTP/1.1\r\nHost: {urlsplit(client.url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def read_answer(connection):
    got = b""
    while b"\r\n\r\n" not in got or not got.endswith(b"}"):
        part = connection.recv(65536)
        if not part:
            break
        got += part
    status, body = got.split(b" ", 2)[1], got.partition(b"\r\n\r\n")[2]
    return int(status), json.loads(body)["code"]


def is_closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def check_come_back(answer, *expected):
    """The answer is an openEO error document and says when to try again."""
    assert fault(answer) == expected
    assert int(answer.headers["Retry-After"]) > 0


def test_a_body_that_does_not_come_is_given_up(tmp_path):
    with with_limits(tmp_path, body_seconds=0.3) as client, connect(client) as connection:
        connection.sendall(head(client, length=1000) + b"{}")
        assert read_answer(connection) == (408, "RequestTimeout")


def test_a_body_longer_than_its_length_says_is_not_read_as_part_of_it(client):
    body = json.dumps({"process": process("add", x=1, y=1)}).encode()
    with connect(client) as connection:
        connection.sendall(head(client, length=4) + body)  # the rest is no request
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_one_request_too_many_is_503_with_a_hint(tmp_path):
    with with_limits(tmp_path, requests=1) as client, connect(client) as connection:
        connection.sendall(head(client, length=10))
        for _ in range(200):  # the other one may not have come yet
            answer = client.ask("get", "/")
            if not answer.ok:
                break
        check_come_back(answer, 503, "ServerBusy")
        connection.sendall(b"x" * 10)
        assert read_answer(connection) == (400, "RequestInvalid")
        assert client.ask("get", "/").ok  # the place is free again


def test_connections_that_say_nothing_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "HEAD_SECONDS", 0.3)
    with fake_server(tmp_path) as client, connect(client) as silent, connect(client) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHo")
        assert is_closed(silent)
        assert is_closed(slow)
        assert client.ask("get", "/").ok


def test_headers_without_end_are_cut_off_before_they_take_memory(guarded):
    """Before the token is asked for; what lies in the buffers of both sockets counts, too."""
    with connect(guarded) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        with suppress(ConnectionError):
            while sent < 50 * 2**20:
                connection.sendall(b"a:\r\n" * 25_000)
                sent += 100_000
        assert sent < 16 * 2**20
        assert guarded.ask("get", "/").ok


def test_large_headers_are_refused_before_anything_else(guarded):
    answer = guarded.ask("get", "/", headers={"X-Large": "x" * 17_000})
    assert answer.status_code in {400, 431}  # the first by h11, if they come in pieces


def test_one_connection_too_many_is_closed(tmp_path):
    with with_limits(tmp_path, connections=2) as client:
        with connect(client), connect(client):
            time.sleep(0.1)
            with connect(client) as third:
                assert is_closed(third)
        for _ in range(100):
            try:
                assert client.ask("get", "/").ok
                break
            except requests.ConnectionError:  # the two are not yet gone
                time.sleep(0.05)


def test_one_job_too_many_in_the_queue_is_429_with_a_hint(tmp_path):
    with with_limits(tmp_path, queued=1) as client:
        client.wait(client.start("sleep", {"seconds": 60}), "running")
        client.start("sleep", {"seconds": 60})
        third = client.create("sleep", {"seconds": 60})
        check_come_back(client.ask("post", f"/jobs/{third}/results"), 429, "TooManyRequests")
        assert client.ask("get", f"/jobs/{third}").json()["status"] == "created"


def test_results_that_nobody_fetches_stop_new_ones(tmp_path):
    with with_limits(tmp_path, unsent_bytes=100) as client:
        waiting = tmp_path / "sync" / "waiting"
        waiting.write_bytes(b"x" * 101)
        check_come_back(client.compute("add", x=1, y=1), 503, "ServerBusy")
        waiting.unlink()
        assert client.compute("add", x=1, y=1).text == "2"


# --- secrets ---------------------------------------------------------------------------------


def test_neither_token_nor_signatures_reach_logs_answers_or_files(tmp_path, caplog):
    caplog.set_level("DEBUG")
    said = []
    with fake_server(tmp_path, token=TOKEN) as open_to_all:

        def ask(method, path, body=None, token=TOKEN):
            client = Client(open_to_all.url, Authorization=f"Bearer basic//{token}")
            answer = client.ask(method, path, body)
            said.append(answer.text + str(answer.headers))
            return answer

        body = {"process": process("forbid"), "log_level": "debug"}
        assert ask("post", "/result", body).status_code == 500
        job = ask("post", "/jobs", body).headers["OpenEO-Identifier"]
        ask("post", f"/jobs/{job}/results")
        while ask("get", f"/jobs/{job}").json()["status"] != "error":
            time.sleep(0.05)
        logs = ask("get", f"/jobs/{job}/logs?level=debug").json()["logs"]
        assert any("Traceback" in entry["message"] for entry in logs)
        assert "***" in logs[-1]["message"]
        ask("get", f"/jobs/{job}/results")
        ask("get", "/jobs", token=TOKEN[:-1] + "?")
        ask("get", "/credentials/basic", token="x")  # noqa: S106
    written = "".join(said) + caplog.text
    for secret in (SIGNATURE, TOKEN):
        assert secret not in written
        assert files_with(tmp_path, secret) == []
