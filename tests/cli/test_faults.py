"""`revos extract` while what is around it fails in mid-file."""

import itertools

import pytest

from revos.testing import Answer

DOCUMENTS = 40
UNAVAILABLE = {"status": 503, "headers": {"Retry-After": "0"}}


@pytest.fixture
def in_mid_file(gateway, monkeypatch):
    """Call something with the gateway when half of the documents have been asked for."""
    monkeypatch.setenv("REVOS_MAX_RETRIES", "4")

    def arrange(happens):
        numbers = itertools.count(1)

        def seen(request):
            if next(numbers) == DOCUMENTS // 2:
                happens(gateway)
            return False

        gateway.refuse_if = seen
        return gateway

    return arrange


def revocation(gateway):
    gateway.revoke()


def outage_of_the_api(gateway):
    gateway.chat_script.extend([Answer(**UNAVAILABLE)] * 3)


def revocation_in_an_outage_of_the_token_endpoint(gateway):
    gateway.fail_next(2, **UNAVAILABLE)
    gateway.revoke()


FAULTS = [
    (revocation, 2),
    (outage_of_the_api, 1),
    (revocation_in_an_outage_of_the_token_endpoint, 4),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0].__name__)
def test_what_happens_in_mid_file_costs_no_document(backend, extract, files, in_mid_file, fault):
    happens, token_requests = fault
    gateway = in_mid_file(happens)

    told = extract(files.people(DOCUMENTS), "-o", "out.jsonl", concurrency=5, backend=backend)

    assert (told.code, told.out) == (0, "")
    assert sorted(line["id"] for line in files.lines("out.jsonl")) == list(range(DOCUMENTS))
    assert gateway.token_requests == token_requests


def test_a_run_that_gets_no_token_any_more_stops_and_goes_on_with_what_is_missing(
    backend, extract, files, in_mid_file
):
    def end(gateway):
        gateway.outage = Answer(status=400, body={"error": "unauthorized_client"})
        gateway.revoke()

    gateway = in_mid_file(end)
    people = files.people(DOCUMENTS)

    told = extract(people, "-o", "out.jsonl", concurrency=5, backend=backend)
    done = {line["id"] for line in files.lines("out.jsonl")}
    gateway.outage = None
    again = extract(people, "-o", "out.jsonl", "--resume", backend=backend)

    assert (told.code, again.code) == (1, 0)
    assert "revos: stopped: " in told.err
    assert " --resume" in told.err
    assert 0 < len(done) < DOCUMENTS
    assert sorted(line["id"] for line in files.lines("out.jsonl")) == list(range(DOCUMENTS))
