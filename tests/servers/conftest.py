"""Both servers run once for all tests here; one that a test ended runs again in the next."""

from __future__ import annotations

import pytest
from servers.real import AuthorizationServer, Gateway, installed

collect_ignore = ["litellm"]  # The proxy's own; it imports what is installed beside the proxy only.


@pytest.fixture(scope="session")
def _oidc(tmp_path_factory):
    place = installed("REVOS_TESTS_OIDC")
    with AuthorizationServer(place, tmp_path_factory.mktemp("oidc")).running() as server:
        yield server


@pytest.fixture(scope="session")
def _gateway(tmp_path_factory, _oidc):
    executable = installed("REVOS_TESTS_LITELLM")
    with Gateway(executable, tmp_path_factory.mktemp("litellm"), _oidc).running() as server:
        yield server


@pytest.fixture
def oidc(_oidc):
    _oidc.ensure_running()
    _oidc.forget()
    return _oidc


@pytest.fixture
def gateway(_gateway, oidc):
    _gateway.ensure_running()
    _gateway.forget()
    return _gateway
