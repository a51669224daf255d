"""Every public name as a user writes it. Never run: mypy --strict is its test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, assert_type

import anyio
import httpx
import pydantic
import pytest
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

import revos
from revos import (
    AccessToken,
    BearerAuth,
    Config,
    Extraction,
    GatewayConfig,
    Health,
    LangChainExtractor,
    LoggingConfig,
    ModelConfig,
    RevosAPIError,
    RevosAuthenticationError,
    RevosClosedError,
    RevosConfigurationError,
    RevosError,
    RevosInputError,
    RevosTokenError,
    RevosValidationError,
    TokenConfig,
    TokenManager,
    TokenStatus,
    TokenStream,
    Usage,
    blocking,
    configure_logging,
    create_config_with_prefixes,
    get_consecutive_failures,
    get_langchain_extractor,
    get_revos_token,
    get_token_info,
    invalidate_revos_token,
    list_remote_models,
    load_config,
    reset_token_manager,
)
from revos.testing import (
    Answer,
    ChatRecord,
    Gateway,
    Request,
    Server,
    TokenRecord,
    fill,
    serve,
    serve_gateway,
    serve_gateway_in_thread,
    serve_in_thread,
)


class Person(pydantic.BaseModel):
    name: str
    age: int


def configuration(path: Path, environ: Mapping[str, str]) -> Config:
    config = load_config()
    config = load_config("revos.toml")
    config = load_config(
        path,
        env_file=None,
        environ=environ,
        revo_prefix="MYAPP_",
        llm_prefix="MYAPP_LLM_",
        logging_prefix="MYAPP_LOG_",
        token_prefix="MYAPP_TOKEN_",
    )
    assert_type(config, Config)
    assert_type(create_config_with_prefixes("MYAPP_", token_prefix="MYAPP_TOKEN_"), Config)
    assert_type(config.revos, GatewayConfig)
    assert_type(config.token, TokenConfig)
    assert_type(config.logging, LoggingConfig)
    assert_type(config.models, Mapping[str, ModelConfig])
    assert_type(config.model("gpt-4"), ModelConfig)
    assert_type(config.model("gpt-4").temperature, float | None)
    assert_type(config.revos.client_secret, str | None)
    configure_logging(config)
    return Config(
        revos=GatewayConfig(
            client_id="app",
            client_secret_file="/run/secrets/revos",
            token_url="https://login.example/token",
            base_url="https://gateway.example/v1",
            auth_method="client_secret_basic",
            extra_token_params={"tenant": "t"},
        ),
        token=TokenConfig(refresh_interval_minutes=30, enable_fallback=False),
        models={"gpt-4": ModelConfig(model="gpt-4", temperature=0, max_tokens=100)},
        logging=LoggingConfig(level="DEBUG", file="revos.log"),
    )


async def tokens(config: Config, http: httpx.AsyncClient) -> None:
    async with (
        TokenManager(),
        TokenManager(refresh_interval_minutes=30, settings_instance=config),
        TokenManager(config, http_client=http) as tm,
    ):
        assert_type(tm, TokenManager)
        assert_type(await tm.get_token(), str)
        assert_type(await tm.get_token(force_refresh=True, use_fallback=True), str)
        assert_type(tm.get_token_nowait(), str)
        token = await tm.refresh()
        assert_type(token, AccessToken)
        assert_type(await tm.refresh(superseding=token), AccessToken)
        assert_type(await tm.refresh(superseding=token.value, use_fallback=True), AccessToken)
        assert_type(await tm.refresh_extractor(), bool)
        tm.invalidate()
        tm.invalidate(token)
        tm.invalidate(token.value)
        tm.reset()
        async with tm.subscribe() as stream:
            assert_type(stream, TokenStream)
            assert_type(stream.latest, AccessToken | None)
            assert_type(await stream.receive(), AccessToken)
            async for newer in stream:
                assert_type(newer, AccessToken)
        assert_type(tm.config, Config)
        assert_type(tm.status, TokenStatus)
        assert_type(tm.health(), Health)
        assert_type(tm.consecutive_failures, int)
        assert_type(await tm.list_models(), list[str])


async def service(config: Config) -> None:
    tm = TokenManager(config)
    await tm.start_background_service()
    try:
        assert_type(tm.is_background_service_running(), bool)
    finally:
        await tm.stop_background_service()


def facts(token: AccessToken, status: TokenStatus, health: Health) -> None:
    assert_type(token.value, str)
    assert_type(token.expires_at, datetime)
    assert_type(token.scope, str | None)
    assert_type(token.method, str)
    assert_type(token.fingerprint, str)
    assert_type(status.has_token, bool)
    assert_type(status.expires_at, datetime | None)
    assert_type(status.time_until_expiry, float | None)
    assert_type(status.consecutive_failures, int)
    assert_type(status.last_refresh_at, datetime | None)
    assert_type(status.last_error, str | None)
    assert_type(status.is_using_fallback, bool)
    assert_type(health.state, Literal["healthy", "degraded", "unhealthy"])
    assert_type(health.reason, str)


async def clients(tm: TokenManager) -> None:
    assert_type(tm.auth, BearerAuth)
    async with httpx.AsyncClient(auth=tm.auth) as http:
        await http.get("https://gateway.example/v1/models")
    with httpx.Client(auth=BearerAuth(tm, origins=["https://gateway.example"])) as sync_http:
        await anyio.to_thread.run_sync(sync_http.get, "https://gateway.example/v1/models")


async def extraction(tm: TokenManager, config: Config) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Extract."), ("user", "{text}")])
    async with tm.extractor("gpt-4") as gpt4:
        assert_type(gpt4, LangChainExtractor)
        assert_type(await gpt4.extract(Person, "Extract: {text}", text="Ada, 36"), Person)
        assert_type(await gpt4.extract(Person, prompt, text="Ada, 36"), Person)
        assert_type(gpt4.model_name, str)
        assert_type(gpt4.llm, ChatOpenAI)
        await gpt4.run_asyncio(gpt4.llm.ainvoke, "Hello")
        result = await gpt4.extract_result(Person, prompt, text="Ada, 36")
        assert_type(result, Extraction[Person])
        assert_type(result.value, Person)
        assert_type(result.usage, Usage)
        assert_type(result.error, RevosError | None)
        async with gpt4.extract_many(Person, prompt, ["Ada, 36", {"text": "x"}]) as results:
            async for each in results:
                assert_type(each.value, Person)
            assert_type(results.usage, Usage)
        async with gpt4.extract_stream(Person, prompt, text="Ada, 36") as parts:
            async for part in parts:
                assert_type(part, Any)
            assert_type(parts.value, Person)
        await gpt4.extract(int | None, "How many? {text}", text="none")
    async with (
        tm.extractor("gpt-4", strategy="tools", repairs=2),
        tm.extractors("gpt-4", "claude-4") as all_,
    ):
        assert_type(all_["gpt-4"], LangChainExtractor)
        for name in all_:
            assert_type(name, str)
    extractor = get_langchain_extractor("gpt-4", config, manager=tm)
    assert_type(extractor, LangChainExtractor)
    async with extractor as entered:
        assert_type(entered, LangChainExtractor)


async def ambient(tm: TokenManager) -> None:
    assert_type(await get_revos_token(), str)
    assert_type(await get_revos_token(True, use_fallback=True, manager=tm), str)
    assert_type(get_token_info(), dict[str, object])
    assert_type(get_token_info(manager=tm), dict[str, object])
    assert_type(get_consecutive_failures(manager=tm), int)
    invalidate_revos_token(manager=tm)
    reset_token_manager(manager=tm)
    assert_type(await list_remote_models(), list[str])
    assert_type(await list_remote_models(manager=tm), list[str])


async def failures(tm: TokenManager) -> None:
    try:
        await tm.get_token()
    except RevosAuthenticationError as error:
        assert_type(error.attempts, int)
        assert_type(error.retry_after, float | None)
        assert_type(error.status_code, int | None)
        assert_type(error.error, str | None)
        assert_type(error.error_description, str | None)
        assert_type(error.method, str | None)
        assert_type(error.temporary, bool)
    except RevosClosedError as error:
        closed: anyio.ClosedResourceError = error
        raise closed from None
    except RevosTokenError as error:
        assert_type(error.temporary, bool)
    except RevosAPIError as error:
        assert_type(error.status_code, int | None)
        assert_type(error.code, str | None)
        assert_type(error.retry_after, float | None)
        assert_type(error.available_models, tuple[str, ...])
    except RevosValidationError as error:
        assert_type(error.raw, str | None)
        for problem in error.problems:
            assert_type(problem.path, str)
            assert_type(problem.message, str)
    except RevosConfigurationError as error:
        assert_type(error.problems, tuple[str, ...])
    except RevosInputError as error:
        value_error: ValueError = error
        raise value_error from None
    except RevosError as error:
        assert_type(error.temporary, bool)


def without_a_loop(config: Config, running: TokenManager) -> None:
    with (
        blocking.TokenManager(),
        blocking.TokenManager(refresh_interval_minutes=5, settings_instance=config) as tm,
    ):
        assert_type(tm, blocking.TokenManager)
        assert_type(tm.get_token(), str)
        assert_type(tm.get_token(force_refresh=True, use_fallback=True), str)
        assert_type(tm.get_token_nowait(), str)
        token = tm.refresh(use_fallback=True)
        assert_type(token, AccessToken)
        assert_type(tm.refresh(superseding=token), AccessToken)
        assert_type(tm.refresh_extractor(), bool)
        tm.invalidate(token)
        assert_type(tm.status, TokenStatus)
        assert_type(tm.health(), Health)
        assert_type(tm.consecutive_failures, int)
        assert_type(tm.config, Config)
        assert_type(tm.list_models(), list[str])
        with httpx.Client(auth=tm.auth) as http:
            http.get("https://gateway.example/v1/models")
        with tm.extractor("gpt-4", strategy="json_schema") as gpt4:
            assert_type(gpt4, blocking.Extractor)
            assert_type(gpt4.extract(Person, "Extract: {text}", text="Ada, 36"), Person)
        with tm.extractors() as every:
            assert_type(every["gpt-4"], blocking.Extractor)
        for manager in (tm, running, None):
            assert_type(blocking.get_revos_token(manager=manager), str)
            assert_type(blocking.get_token_info(manager=manager), dict[str, object])
            assert_type(blocking.get_consecutive_failures(manager=manager), int)
            assert_type(blocking.list_remote_models(manager=manager), list[str])
            blocking.invalidate_revos_token(manager=manager)
            blocking.reset_token_manager(manager=manager)
            extractor = blocking.get_langchain_extractor("gpt-4", config, manager=manager)
            assert_type(extractor, blocking.Extractor)
    service = blocking.TokenManager(config)
    service.start_background_service()
    assert_type(service.is_background_service_running(), bool)
    service.stop_background_service()


async def a_test(revos_gateway: Gateway) -> None:
    revos_gateway.fail_next(2, status=503, headers={"retry-after": "1"}, method="private_key_jwt")
    revos_gateway.outage = Answer(status=400, body={"error": "invalid_scope"})
    revos_gateway.token_script.append(Answer(hang=True))
    revos_gateway.chat_script.append("Hello")
    revos_gateway.refuse_if = lambda request: request.path == "/v1/models"
    revos_gateway.revoke(revos_gateway.issue(lifetime=60))
    assert_type(revos_gateway.config(max_retries=1), Config)
    assert_type(revos_gateway.environ(), dict[str, str])
    assert_type(revos_gateway.token_requests, int)
    for record in revos_gateway.token_log:
        assert_type(record, TokenRecord)
    for chat in revos_gateway.chat_log:
        assert_type(chat, ChatRecord)
    async with serve_gateway(Gateway(models=("tiny",))) as gateway:
        assert_type(gateway, Gateway)
    async with serve(gateway, port=8080) as server:
        assert_type(server, Server)
        assert_type(server.url, str)
    transport = httpx.ASGITransport(app=gateway)
    async with httpx.AsyncClient(transport=transport) as http, TokenManager(http_client=http):
        pass
    fill({"type": "string"}, "Ada")


def is_good(request: Request) -> bool:
    return request.method == "GET" and "x-api-key" in request.headers


def a_plain_test(revos_gateway_sync: Gateway) -> None:
    with serve_gateway_in_thread(revos_gateway_sync) as gateway:
        assert_type(gateway, Gateway)
    with serve_in_thread(gateway, backend="trio") as server:
        assert_type(server, Server)


@pytest.fixture
async def tm(revos_gateway: Gateway) -> AsyncIterator[TokenManager]:
    async with TokenManager(revos_gateway.config()) as manager:
        yield manager


@pytest.fixture
def blocking_tm(revos_gateway_sync: Gateway) -> Iterator[blocking.TokenManager]:
    with blocking.TokenManager(revos_gateway_sync.config()) as manager:
        yield manager


class Service:
    """A manager inside a class of the user's."""

    def __init__(self, config: Config | None = None) -> None:
        self.tokens = TokenManager(config)

    async def __aenter__(self) -> Self:
        await self.tokens.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.tokens.__aexit__(exc_type, exc, traceback)


assert_type(revos.__all__, list[str])
