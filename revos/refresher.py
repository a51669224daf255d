"""The loop that asks for tokens, and the callers that wait for it.

`policy` decides; this module acts. Every change of the state goes through `report`, which is
synchronous, so there is no lock. One task, `run`, sends token requests; a caller joins the cycle
that it runs and waits for an event, so cancelling one touches neither the cycle nor the others
(P1, P2).

The path of a token: `run` -> `TokenEndpoint.request_token` -> `report(Granted)` -> `on_held` and
the callers that joined.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint
from attrs import define, evolve, field

from revos import policy
from revos.clock import Clock
from revos.endpoint import TokenEndpoint
from revos.errors import RevosAuthenticationError, RevosClosedError, RevosError, own_copy
from revos.oauth2 import Failure, authentication_error
from revos.policy import Ask, Held, Now, Rules, State
from revos.token import AccessToken

__all__ = ["Refresher"]

logger = logging.getLogger("revos.refresher")


@define
class _Flight:
    """One cycle, to those who wait for it."""

    done: anyio.Event = field(factory=anyio.Event)
    outcome: Held | RevosError | None = None


@define(eq=False)
class Refresher:
    """The state of one manager, in the event loop of that manager.

    :ivar on_held: told at each change of state which token is held, None where there is none
    :ivar closed: raised to whoever waits, and whoever comes, once it is set
    """

    rules: Rules
    clock: Clock
    random: Callable[[], float]
    on_held: Callable[[Held | None], None]
    state: State = field(factory=State)
    closed: RevosClosedError | None = None
    _flights: dict[int, _Flight] = field(factory=dict)
    _wake: anyio.Event = field(factory=anyio.Event)

    def now(self) -> Now:
        return Now(self.clock.monotonic(), self.clock.time())

    def report(self, event: policy.Event) -> policy.Decision:
        """Tell the policy, and act on what changed at once."""
        before = self.state
        self.state, decision = policy.step(before, event, self.now(), self.rules)
        if self.state is not before:
            self.on_held(self.state.held)  # A stream gives each token once.
            self._wake.set()
        return decision

    async def run(self, endpoint: TokenEndpoint) -> None:
        """Do what the policy says, until cancelled; nothing any more once it is closed."""
        while self.closed is None:
            decision = self.report(policy.Turn())
            if isinstance(decision, policy.Attempt):
                await self._attempt(endpoint, decision)
            elif isinstance(decision, policy.Wait):
                await self._wait(decision.until_at)
            elif isinstance(decision, policy.Finished):
                self._finish(decision)

    async def _attempt(self, endpoint: TokenEndpoint, attempt: policy.Attempt) -> None:
        outcome, head = await endpoint.request_token(attempt.way, attempt.timeout)
        event: policy.Granted | policy.Failed
        if isinstance(outcome, Failure):
            event = policy.Failed(outcome, self.random())
        else:
            method = endpoint.sources[attempt.way].method
            event = policy.Granted(outcome, head, method, self.random())
        decision = self.report(event)
        if isinstance(decision, policy.Finished):
            self._finish(decision)

    async def _wait(self, until_at: float | None) -> None:
        if until_at is None:
            await self._wake.wait()
        else:
            with self.clock.move_on_after(until_at - self.clock.monotonic()):
                await self._wake.wait()
        self._wake = anyio.Event()

    def _finish(self, finished: policy.Finished) -> None:
        outcome: Held | RevosError
        if isinstance(finished.outcome, Failure):
            outcome = authentication_error(
                finished.outcome, attempts=finished.attempts, retry_after=finished.retry_after
            )
            logger.warning("no new token (next cycle in %.1f s): %s", finished.retry_after, outcome)
        else:
            outcome = finished.outcome
            token = outcome.token
            logger.debug("token %s until %s", token.fingerprint, token.expires_at.isoformat())
        flight = self._flights.pop(finished.number, None)
        if flight is not None:
            flight.outcome = outcome
            flight.done.set()

    async def obtain(self, ask: Ask) -> AccessToken:
        """What the policy gives this caller: the held token, or the outcome of a cycle.

        :raises RevosAuthenticationError: that cycle, or the last one, failed
        :raises RevosClosedError: the manager is closed
        """
        await checkpoint()
        while True:
            if self.closed is not None:
                raise own_copy(self.closed)
            decision = self.report(ask)
            if isinstance(decision, policy.Give):
                return decision.token
            if isinstance(decision, policy.Deny):
                raise _held_error(decision)
            assert isinstance(decision, policy.Join)  # noqa: S101 - all that an Ask leads to
            flight = self._flights.setdefault(decision.number, _Flight())
            await flight.done.wait()
            if isinstance(flight.outcome, RevosError):
                raise own_copy(flight.outcome)
            assert flight.outcome is not None  # noqa: S101 - set before `done`
            if flight.outcome.is_usable(self.now()):
                return flight.outcome.token
            # It ended before this caller ran again, who asks once more.

    def fresh_nowait(self) -> AccessToken | None:
        """The held token where it is fresh, from any thread."""
        held = self.state.held  # Until it is due it is usable.
        return None if held is None or held.is_due(self.now()) else held.token

    def close(self, error: RevosClosedError) -> None:
        """From here on there is no token: whoever waits, and whoever comes, is told so."""
        self.closed = error
        self.state = evolve(self.state, held=None)
        self.on_held(None)
        for flight in self._flights.values():
            flight.outcome = error
            flight.done.set()


def _held_error(deny: policy.Deny) -> RevosAuthenticationError:
    if deny.failure is None:
        return RevosAuthenticationError(
            "this consumer was refused with a new token and may not ask for another yet",
            retry_after=deny.retry_after,
            temporary=True,
        )
    return authentication_error(deny.failure, attempts=deny.attempts, retry_after=deny.retry_after)
