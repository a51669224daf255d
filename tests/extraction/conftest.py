from __future__ import annotations

import pytest

from revos import TokenManager


@pytest.fixture
async def tm(revos_gateway):
    async with TokenManager(revos_gateway.config(max_retries=1)) as manager:
        yield manager


@pytest.fixture
async def gpt4(tm):
    async with tm.extractor("gpt-4") as extractor:
        yield extractor
