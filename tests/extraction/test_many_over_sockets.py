"""Many documents over real connections, while what is around them fails."""

from __future__ import annotations

import pydantic
import pytest

from revos import RevosValidationError, TokenManager
from revos.testing import Answer

PROMPT = "How many? {text}"
DOCUMENTS = 120


class Count(pydantic.BaseModel):
    number: int


async def numbers(tm, gateway, happens):
    """The numbers that are found, and what failed; something happens after a third of them."""
    found, failed = [], []
    async with (
        tm.extractor("gpt-4", max_concurrency=20) as ex,
        ex.extract_many(Count, PROMPT, (f"{n} figs" for n in range(DOCUMENTS))) as results,
    ):
        async for result in results:
            if result.error is None:
                found.append(result.value.number)
            else:
                failed.append((result.index, type(result.error)))
            if len(found) == DOCUMENTS // 3:
                await happens(gateway)
    return sorted(found), failed


async def revocation(gateway):
    gateway.revoke()


async def outage_of_the_api(gateway):
    gateway.chat_script.extend([Answer(status=503, headers={"Retry-After": "0.01"})] * 15)


async def rate_limit(gateway):
    gateway.chat_script.extend([Answer(status=429, headers={"Retry-After": "0.05"})] * 10)


async def revocation_in_an_outage_of_the_token_endpoint(gateway):
    gateway.fail_next(2, status=503, headers={"Retry-After": "0"})
    gateway.revoke()


@pytest.mark.parametrize(
    ("happens", "token_requests"),
    [
        (revocation, 2),
        (outage_of_the_api, 1),
        (rate_limit, 1),
        (revocation_in_an_outage_of_the_token_endpoint, 4),
    ],
)
async def test_what_happens_in_the_middle_costs_no_document(revos_gateway, happens, token_requests):
    async with TokenManager(revos_gateway.config()) as tm:
        found, failed = await numbers(tm, revos_gateway, happens)

    assert (found, failed) == (list(range(DOCUMENTS)), [])
    assert revos_gateway.token_requests == token_requests


async def test_answers_that_never_fit_are_the_error_of_one_document(revos_gateway):
    failed = []
    async with (
        TokenManager(revos_gateway.config()) as tm,
        tm.extractor("gpt-4", max_concurrency=1) as ex,
        ex.extract_many(Count, PROMPT, (f"{n} figs" for n in range(9))) as results,
    ):
        async for result in results:
            failed += [result.error] if result.error is not None else []
            if result.index == 3:
                revos_gateway.chat_script.extend(["no json", "no json, still"])

    assert [type(error) for error in failed] == [RevosValidationError]
    assert results.progress.done == 8
