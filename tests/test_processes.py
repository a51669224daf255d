import socket
import sys
import time

import httpx
import pytest
from processes import ServerProcess, free_port

SERVE = """
import http.server, json, signal, sys
sys.stdout.write("not an event\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(json.dumps({"event": "asked", "path": self.path}), flush=True)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def made(tmp_path):
    def make(code, *arguments, seconds=10):
        command = [sys.executable, "-c", code, "{port}", *arguments]
        return ServerProcess(command, log=tmp_path / "log", ready="/ready", seconds=seconds)

    return make


def is_taken(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_serves_inside_its_block_and_is_gone_behind_it(made):
    server = made(SERVE)

    with server.running():
        assert server.is_running
        assert is_taken(server.port)

    assert not server.is_running
    assert not is_taken(server.port)


def test_a_server_starts_again_on_the_same_port(made):
    server = made(SERVE)

    with server.running():
        server.kill()
        assert not is_taken(server.port)
        server.start()
        assert httpx.get(server.url).status_code == 200


def test_what_a_server_prints_are_its_events_since_they_were_forgotten(made):
    server = made(SERVE)

    with server.running():
        server.forget()
        httpx.get(f"{server.url}/one")
        httpx.get(f"{server.url}/two")

    assert [event["path"] for event in server.events()] == ["/one", "/two"]
    assert server.events(path="/two") == [{"event": "asked", "path": "/two"}]


def test_a_server_that_ends_at_its_start_is_told_with_its_log(made):
    server = made("raise SystemExit('no such option')")

    with pytest.raises(RuntimeError, match=r"(?s)ended with status 1; its log ends:.*no such opt"):
        server.start()


def test_a_server_that_never_serves_is_ended_and_told(made):
    server = made("import time; print('waiting', flush=True); time.sleep(60)", seconds=0.5)

    with pytest.raises(RuntimeError, match=r"(?s)does not serve http://.*after 0.5 s;.*waiting"):
        server.start()

    assert not server.is_running


def test_a_server_that_does_not_end_when_asked_to_is_killed(made):
    server = made(SERVE, "deaf")
    server.patience = 0.2

    with server.running():
        began = time.monotonic()

    assert not is_taken(server.port)
    assert time.monotonic() - began < 3


def test_a_free_port_is_one_that_the_system_gives_to_no_outgoing_connection():
    assert 20_000 <= free_port() < 32_000
