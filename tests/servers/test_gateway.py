"""The main job with the LiteLLM proxy, which asks `oidc-provider` about each token."""

import anyio
import httpx
import pytest
from anyio import to_thread
from attrs import evolve
from servers.real import (
    ADA,
    ELSEWHERE,
    MODELS,
    OPAQUE,
    PROMPT,
    TEXT,
    Person,
    config,
    until,
)

from revos import (
    ModelConfig,
    RevosAPIError,
    RevosAuthenticationError,
    RevosValidationError,
    TokenManager,
)


class Job:
    """Workers that extract again and again; what they got, and what was raised to them."""

    def __init__(self, extractor):
        self.done = 0
        self.wrong = []
        self.errors = []
        self._extractor = extractor

    async def work(self):
        while True:
            try:
                person = await self._extractor.extract(Person, PROMPT, text=TEXT)
            except (RevosAPIError, RevosAuthenticationError) as error:
                self.errors.append(error)
                await anyio.sleep(0.1)
            else:
                self.done += 1
                self.wrong += [person] if person != ADA else []

    async def goes_on(self, documents, seconds=60):
        """Wait until so many more are done."""
        enough = self.done + documents
        with anyio.fail_after(seconds):
            while self.done < enough:
                await anyio.sleep(0.02)


async def extract(extractor):
    return await extractor.extract(Person, PROMPT, text=TEXT)


# The main job.


async def test_text_becomes_a_typed_object(oidc, gateway):
    client = oidc.register()

    async with TokenManager(config(oidc, client, gateway)) as tm, tm.extractor("gpt-4") as gpt4:
        persons = [await extract(gpt4) for _ in range(3)]

    assert persons == [ADA] * 3
    assert oidc.granted(client) == 1
    assert gateway.accepted(client) == 3


async def test_a_token_for_this_resource_is_taken(oidc, gateway):
    client = oidc.register(method="client_secret_basic")

    async with (
        TokenManager(config(oidc, client, gateway, resource=OPAQUE)) as tm,
        tm.extractor("gpt-4") as gpt4,
    ):
        person = await extract(gpt4)

    assert person == ADA


async def test_many_documents_at_once_cost_one_token(oidc, gateway):
    client, persons = oidc.register(), []

    async def one(gpt4):
        persons.append(await extract(gpt4))

    async with (
        TokenManager(config(oidc, client, gateway)) as tm,
        tm.extractor("gpt-4") as gpt4,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(20):
            tasks.start_soon(one, gpt4)

    assert persons == [ADA] * 20
    assert oidc.granted(client) == 1


async def test_the_models_of_the_gateway_are_listed(oidc, gateway):
    client = oidc.register()

    async with TokenManager(config(oidc, client, gateway)) as tm:
        models = await tm.list_models()

    assert sorted(models) == sorted(MODELS)


async def test_an_unknown_model_is_told_with_those_that_there_are(oidc, gateway):
    client = oidc.register()
    settings = config(oidc, client, gateway)
    models = {"gpt-4": ModelConfig(model="gpt-5000")}

    async with (
        TokenManager(evolve(settings, models=models)) as tm,
        tm.extractor("gpt-4") as gpt4,
    ):
        with pytest.raises(
            RevosAPIError, match=r"gpt-5000.*the gateway accepts: .*tools-on"
        ) as caught:
            await extract(gpt4)

    assert caught.value.status_code == 400
    assert sorted(caught.value.available_models) == sorted(MODELS)
    assert gateway.accepted(client) == 2


# Strategies.


@pytest.mark.parametrize(
    ("model", "strategy"),
    [
        ("gpt-4", "json_schema"),
        ("schema-only", "json_schema"),
        ("tools-only", "tools"),
        ("gpt-4", "json_text"),
        ("neither", "json_text"),
    ],
)
async def test_a_strategy_that_the_gateway_takes_gives_the_object(oidc, gateway, model, strategy):
    client = oidc.register()

    async with (
        TokenManager(config(oidc, client, gateway)) as tm,
        tm.extractor(model, strategy=strategy) as extractor,
    ):
        person = await extract(extractor)

    assert person == ADA
    assert gateway.accepted(client) == 1


@pytest.mark.parametrize(
    ("model", "strategy", "feature"),
    [("tools-only", "json_schema", "response_format"), ("schema-only", "tools", "tools")],
)
async def test_a_strategy_that_the_gateway_refuses_is_told(oidc, gateway, model, strategy, feature):
    async with (
        TokenManager(config(oidc, oidc.register(), gateway)) as tm,
        tm.extractor(model, strategy=strategy) as extractor,
    ):
        with pytest.raises(RevosAPIError, match=feature) as caught:
            await extract(extractor)

    assert caught.value.status_code == 400
    assert not caught.value.temporary


async def test_a_refused_strategy_is_stepped_down_from_once(oidc, gateway):
    client = oidc.register()

    async with (
        TokenManager(config(oidc, client, gateway)) as tm,
        tm.extractor("tools-only") as extractor,
    ):
        persons = [await extract(extractor) for _ in range(3)]

    assert persons == [ADA] * 3
    assert gateway.accepted(client) == 4


@pytest.mark.parametrize(
    ("model", "strategy", "requests"),
    [
        ("gpt-4", "json_schema", 2),
        ("schema-only", "json_schema", 2),
        ("tools-only", "tools", 3),
        ("neither", "json_text", 4),
    ],
)
async def test_auto_finds_what_the_gateway_takes_and_tells_it(
    oidc, gateway, model, strategy, requests
):
    client = oidc.register()

    async with (
        TokenManager(config(oidc, client, gateway)) as tm,
        tm.extractor(model) as extractor,
    ):
        results = [await extractor.extract_result(Person, PROMPT, text=TEXT) for _ in range(2)]

    assert [(result.value, result.strategy, result.attempts) for result in results] == [
        (ADA, strategy, 1)
    ] * 2
    assert all(result.usage.total_tokens > 0 for result in results)
    assert gateway.accepted(client) == requests


async def test_an_answer_that_does_not_fit_is_sent_back_as_often_as_was_said(oidc, gateway):
    client = oidc.register()

    async with (
        TokenManager(config(oidc, client, gateway)) as tm,
        tm.extractor("talkative", repairs=2) as extractor,
    ):
        with pytest.raises(RevosValidationError, match="no JSON"):
            await extract(extractor)

    assert gateway.accepted(client) == 3


# What the gateway refuses.


async def test_an_answer_that_does_not_fit_is_told(oidc, gateway):
    async with (
        TokenManager(config(oidc, oidc.register(), gateway)) as tm,
        tm.extractor("talkative") as extractor,
    ):
        with pytest.raises(RevosValidationError) as caught:
            await extract(extractor)

    assert caught.value.raw == "I would rather talk about the weather."


@pytest.mark.parametrize(("model", "status"), [("busy", 429), ("broken", 500)])
async def test_what_passes_by_itself_is_tried_again_by_one_layer(oidc, gateway, model, status):
    client = oidc.register()

    async with (
        TokenManager(config(oidc, client, gateway, max_retries=2)) as tm,
        tm.extractor(model) as extractor,
    ):
        with pytest.raises(RevosAPIError) as caught:
            await extract(extractor)

    assert (caught.value.status_code, caught.value.temporary) == (status, True)
    assert gateway.accepted(client) == 2
    assert oidc.granted(client) == 1


async def test_a_token_that_is_refused_for_good_costs_few_token_requests(oidc, gateway):
    client = oidc.register()
    settings = config(oidc, client, gateway, resource=ELSEWHERE)

    async with TokenManager(settings) as tm, tm.extractor("gpt-4") as gpt4:
        for _ in range(20):
            with pytest.raises(RevosAPIError, match="for somebody else") as caught:
                await extract(gpt4)

    assert caught.value.status_code == 401
    assert oidc.granted(client) <= 5
    assert gateway.accepted(client) == 0


async def test_a_scope_that_does_not_reach_costs_no_refresh(oidc, gateway):
    client = oidc.register()

    async with (
        TokenManager(config(oidc, client, gateway, scope=None)) as tm,
        tm.extractor("gpt-4") as gpt4,
    ):
        with pytest.raises(RevosAPIError, match="has not the scope") as caught:
            await extract(gpt4)

    assert caught.value.status_code == 403
    assert oidc.granted(client) == 1
    assert gateway.judged("too narrow") == 1


async def test_a_wrong_secret_is_what_whoever_extracts_is_told(oidc, gateway):
    client = evolve(oidc.register(), secret="wrong")

    async with TokenManager(config(oidc, client, gateway)) as tm, tm.extractor("gpt-4") as gpt4:
        with pytest.raises(RevosAuthenticationError, match="with invalid_client") as caught:
            await extract(gpt4)

    assert caught.value.status_code == 401
    assert gateway.events(event="judged") == []


# Expiry and revocation.


async def test_a_job_runs_over_many_lifetimes_and_nothing_is_refused(oidc, gateway):
    client = oidc.register(lifetime=4)

    async with TokenManager(config(oidc, client, gateway)) as tm, tm.extractor("gpt-4") as gpt4:
        first = await tm.get_token()
        job = Job(gpt4)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(job.work)
            await anyio.sleep(8.5)
            tasks.cancel_scope.cancel()
        told = await oidc.introspect(first)

    assert job.done > 8
    assert (job.errors, job.wrong) == ([], [])
    assert gateway.judged("inactive") == 0
    assert 4 <= oidc.granted(client) <= 6
    assert not told["active"]


async def test_a_revoked_token_is_replaced_at_the_cost_of_one_request(oidc, gateway):
    client, persons = oidc.register(), []

    async def one(gpt4):
        persons.append(await extract(gpt4))

    async with TokenManager(config(oidc, client, gateway)) as tm, tm.extractor("gpt-4") as gpt4:
        await one(gpt4)
        for _ in range(2):
            await oidc.revoke(await tm.get_token(), client)
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(one, gpt4)

    assert persons == [ADA] * 21
    assert len(oidc.events(event="revoked")) == 2
    assert oidc.granted(client) == 3
    assert gateway.judged("inactive") >= 2
    assert gateway.accepted(client) == 21


async def test_any_http_client_gets_over_a_revocation(oidc, gateway):
    client = oidc.register()

    async with (
        TokenManager(config(oidc, client, gateway)) as tm,
        httpx.AsyncClient(auth=tm.auth, trust_env=False) as http,
    ):
        await oidc.revoke(await tm.get_token(), client)
        response = await http.get(f"{gateway.base_url}/models")

    assert response.status_code == 200
    assert oidc.granted(client) == 2
    assert (gateway.judged("inactive"), gateway.accepted(client)) == (1, 1)


# A restart in mid-job.


async def test_a_job_gets_over_a_restart_of_the_authorization_server(oidc, gateway):
    client = oidc.register()

    async with TokenManager(config(oidc, client, gateway)) as tm, tm.extractor("gpt-4") as gpt4:
        job = Job(gpt4)
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(job.work)
            await job.goes_on(8)
            first = await tm.get_token()
            await to_thread.run_sync(oidc.kill)
            await until(lambda: gateway.judged("unknown") >= 4)
            during = await tm.get_token()
            await to_thread.run_sync(oidc.start)
            await job.goes_on(8)
            after = await tm.get_token()
            tasks.cancel_scope.cancel()

    assert during == first != after
    assert job.wrong == []
    assert all(error.temporary for error in job.errors)
    assert oidc.granted(client) == 2
    assert gateway.judged("inactive") >= 1  # It forgot its tokens.


async def test_a_job_gets_over_a_restart_of_the_gateway(oidc, gateway):
    client = oidc.register()

    async with (
        TokenManager(config(oidc, client, gateway, max_retries=1)) as tm,
        tm.extractor("gpt-4") as gpt4,
    ):
        job = Job(gpt4)
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(job.work)
            await job.goes_on(8)
            await to_thread.run_sync(gateway.kill)
            await until(lambda: job.errors)
            await to_thread.run_sync(gateway.start)
            await job.goes_on(8)
            tasks.cancel_scope.cancel()

    assert job.wrong == []
    assert {(type(error), error.temporary) for error in job.errors} == {(RevosAPIError, True)}
    assert oidc.granted(client) == 1
