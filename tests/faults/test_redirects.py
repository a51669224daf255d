"""A redirect of the token endpoint is a failure, whatever it names; the secret follows none."""

import httpx
import pytest
from sockets import RawEndpoint, http_answer, raw_server
from support import ManualClock, ScriptedEndpoint, manager, manager_at, outcome_over_sockets

from revos import RevosAuthenticationError


def redirect(status, port):
    target = f"http://localhost:{port}/token"
    return http_answer(b"", f"{status} Elsewhere", f"Location: {target}")


@pytest.mark.parametrize("auth_method", ["client_secret_post", "client_secret_basic"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_another_host_hears_nothing(status, auth_method):
    clock = ManualClock()
    endpoint, other = RawEndpoint(clock=clock), RawEndpoint(clock=clock)

    async with raw_server(endpoint) as port, raw_server(other) as other_port:
        endpoint.script = [redirect(status, other_port)]
        async with manager_at(
            port, clock, auth_method=auth_method, fallback_auth_method=auth_method
        ) as tm:
            error = await outcome_over_sockets(tm, clock)

    assert error.status_code == status
    assert f"on to http://localhost:{other_port}/" in str(error)
    assert (endpoint.count, other.accepted) == (1, 0)


async def test_a_client_of_the_user_that_follows_redirects_follows_none_with_the_secret():
    clock = ManualClock()
    endpoint, other = RawEndpoint(clock=clock), RawEndpoint(clock=clock)

    async with (
        raw_server(endpoint) as port,
        raw_server(other) as other_port,
        httpx.AsyncClient(follow_redirects=True) as http,
    ):
        endpoint.script = [redirect(307, other_port)]
        async with manager_at(port, clock, http_client=http) as tm:
            error = await outcome_over_sockets(tm, clock)

    assert error.status_code == 307
    assert (endpoint.count, other.accepted) == (1, 0)


NO_URLS = pytest.mark.parametrize(
    "location", ["http://xn--/", "mailto:a@b", "http://[", "http://a b/"]
)


@NO_URLS
async def test_a_target_that_is_no_url_is_told_as_a_redirect_and_not_asked_again(location):
    clock = ManualClock()
    endpoint = RawEndpoint([http_answer(b"", "302 Found", f"Location: {location}")], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        error = await outcome_over_sockets(tm, clock)

    assert (error.status_code, error.attempts) == (302, 1)


@NO_URLS
async def test_a_target_that_is_no_url_fails_a_request_by_the_users_client_too(location):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [httpx.Response(302, headers={"location": location})]

    async with manager(
        endpoint, clock, max_retries=1, token={"enable_periodic_refresh": False}
    ) as tm:
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()
        await clock.advance(caught.value.retry_after)
        token = await tm.get_token()

    assert endpoint.count == 2
    assert token == "token-2"
