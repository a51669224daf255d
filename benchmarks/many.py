"""How fast `extract_many` is beside what else people would write, as ratios in one run.

    python benchmarks/many.py [DOCUMENTS] [ROUNDS]

2,000 documents at concurrency 50, against a gateway in a process of its own that answers in 20 ms
and does next to nothing else. Each round measures all ways in turn, the median of the ratios
counts. Exit code 1 if one is missed.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio
import pydantic

from revos import Config, TokenManager, load_config

CONCURRENCY = 50
ANSWER_SECONDS = 0.02
MOST_OPENING_MS = 2
PROMPT = "Extract the person: {text}"
TARGETS = {
    "LangChain's abatch, over it": 1.2,
    "the bare OpenAI client, under it": 0.6,
    "asyncio, by Trio": 0.75,
}


class Person(pydantic.BaseModel):
    name: str
    age: int


# The gateway.

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": '{"name": "Ada", "age": 36}'},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15},
}
TOKEN = {"access_token": "a-token-of-the-benchmark", "token_type": "Bearer", "expires_in": 3600}


def as_answer(value: object) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0].strip()
        if separator and len(body) >= int(length or 0):
            self.received = b""
            answer = as_answer(TOKEN if b" /token " in head else COMPLETION)
            asyncio.get_running_loop().call_later(ANSWER_SECONDS, self.transport.write, answer)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def gateway() -> Iterator[str]:
    command = [sys.executable, __file__, "_serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


# The ways: each gives the seconds for all documents.


def config_of(url: str) -> Config:
    environ = {
        "REVOS_CLIENT_ID": "me",
        "REVOS_CLIENT_SECRET": "not-checked",
        "REVOS_TOKEN_URL": f"{url}/token",
        "REVOS_BASE_URL": f"{url}/v1",
        "LLM_MODELS_GPT_4_MODEL": "gpt-4",
        "LLM_MODELS_CLAUDE_4_MODEL": "claude-4",
    }
    return load_config(environ=environ, env_file=None)


async def by_revos(url: str, texts: list[str]) -> float:
    async with (
        TokenManager(config_of(url)) as tm,
        tm.extractor("gpt-4", max_concurrency=CONCURRENCY) as ex,
    ):
        await ex.extract(Person, PROMPT, text="warm")
        started = time.perf_counter()
        async with ex.extract_many(Person, PROMPT, texts) as results:
            done = [result.value async for result in results]
        seconds = time.perf_counter() - started
    assert len(done) == len(texts)
    return seconds


async def by_abatch(url: str, texts: list[str]) -> float:
    from langchain_core.prompts import PromptTemplate
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(model="gpt-4", base_url=f"{url}/v1", api_key="a-token", max_retries=0)
    chain = PromptTemplate.from_template(PROMPT) | llm.with_structured_output(
        Person, method="json_schema"
    )
    await chain.ainvoke({"text": "warm"})
    started = time.perf_counter()
    done = await chain.abatch(
        [{"text": text} for text in texts], config={"max_concurrency": CONCURRENCY}
    )
    seconds = time.perf_counter() - started
    assert len(done) == len(texts)
    return seconds


async def by_bare_client(url: str, texts: list[str]) -> float:
    import openai

    schema = Person.model_json_schema() | {"additionalProperties": False}
    shape = {
        "type": "json_schema",
        "json_schema": {"name": "Person", "schema": schema, "strict": True},
    }
    limiter, done = anyio.CapacityLimiter(CONCURRENCY), []
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="a-token", max_retries=0) as client:

        async def extract(text: str) -> None:
            async with limiter:
                completion = await client.chat.completions.create(
                    model="gpt-4",
                    messages=[{"role": "user", "content": PROMPT.format(text=text)}],
                    response_format=shape,
                )
            done.append(Person.model_validate_json(completion.choices[0].message.content))

        await extract("warm")
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for text in texts:
                tasks.start_soon(extract, text)
        seconds = time.perf_counter() - started
    assert len(done) == len(texts) + 1
    return seconds


def measure(
    way: Callable[[str, list[str]], Awaitable[float]], url: str, count: int, backend: str
) -> float:
    texts = [f"Ada Lovelace {number}, 36, London" for number in range(count)]
    return anyio.run(way, url, texts, backend=backend)


def in_child(name: str, backend: str, url: str, count: int) -> float:
    """Each in a process of its own, as a user would run it: nothing is warm but what it warms."""
    command = [sys.executable, __file__, "_measure", name, backend, url, str(count)]
    environ = {**os.environ, "LANGSMITH_TRACING": "false"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    return float(done.stdout)


async def openings(url: str, texts: list[str]) -> float:
    """The longest of many openings after the first, of one model and of another."""
    longest = 0.0
    async with TokenManager(config_of(url)) as tm, tm.extractor("gpt-4"):
        for name in ("claude-4", *["gpt-4"] * len(texts)):
            started = time.perf_counter()
            async with tm.extractor(name):
                longest = max(longest, time.perf_counter() - started)
    return longest


WAYS = {way.__name__: way for way in (by_revos, by_abatch, by_bare_client, openings)}


def main(count: int = 2000, rounds: int = 3) -> int:
    seen: dict[str, list[float]] = {what: [] for what in TARGETS}
    with gateway() as url:
        for number in range(rounds):
            seconds = {
                "revos": in_child("by_revos", "asyncio", url, count),
                "bare": in_child("by_bare_client", "asyncio", url, count),
                "abatch": in_child("by_abatch", "asyncio", url, count),
                "trio": in_child("by_revos", "trio", url, count),
            }
            told = ", ".join(f"{name} {count / took:.0f}/s" for name, took in seconds.items())
            print(f"round {number + 1}: {told}", flush=True)
            ratios = (
                seconds["abatch"] / seconds["revos"],
                seconds["bare"] / seconds["revos"],
                seconds["revos"] / seconds["trio"],
            )
            for what, ratio in zip(TARGETS, ratios, strict=True):
                seen[what].append(ratio)
        opening = min(in_child("openings", "asyncio", url, 50) for _ in range(rounds)) * 1000
    missed = int(opening >= MOST_OPENING_MS)
    print(
        f"{'missed' if missed else 'met':7} {opening:.2f} ms for a further extractor "
        f"(< {MOST_OPENING_MS})"
    )
    for what, target in TARGETS.items():
        ratio = statistics.median(seen[what])
        missed += ratio < target
        print(f"{'missed' if ratio < target else 'met':7} {ratio:.2f} of {what} (>= {target})")
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["_serve"]:
        asyncio.run(serve())
    elif sys.argv[1:2] == ["_measure"]:
        _, _, name, backend, url, number = sys.argv
        print(measure(WAYS[name], url, int(number), backend))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
    else:
        raise SystemExit(main(*map(int, sys.argv[1:])))
