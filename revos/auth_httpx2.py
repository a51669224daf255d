"""`BearerAuth` for clients of `httpx2` as well; imported only where `httpx2` is.

Each of the two libraries checks `isinstance(auth, Auth)` with its own `Auth`.
"""

from __future__ import annotations

import httpx2

from revos.auth import BearerAuth

__all__ = ["DualBearerAuth"]


class DualBearerAuth(BearerAuth, httpx2.Auth):  # type: ignore[misc]  # its hooks take either library's requests
    """A `BearerAuth` that both libraries accept."""
