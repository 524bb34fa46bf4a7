"""What a server may cost: caps on requests and on money that hold with many requests at the same time."""

import threading


class BudgetSpent(Exception):
    """The next request could go over a cap. Its text is a clause that says which."""


class Budget:
    """
    Counts requests and money, and refuses the request that could go over a cap.

    Before a request its worst cost is reserved, afterwards the difference to its real cost is given back: however many
    are open, the sum stays under the cap. A request that does not fit beside the open ones waits for them.

    Args:
        max_requests (`int`, *optional*):
            Cap on requests, retries included.
        max_cost (`float`, *optional*):
            Cap on money, in the currency of the prices.
        prompt_price, completion_price (`float`, *optional*, defaults to 0):
            Prices per million tokens.
    """

    def __init__(
        self,
        max_requests: int | None = None,
        max_cost: float | None = None,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
    ):
        if max_cost is not None and not (prompt_price > 0 or completion_price > 0):
            raise ValueError(
                f"You set max_cost={max_cost!r}, but no prices, so that nothing would ever be counted. Set "
                "prompt_price and completion_price, per million tokens."
            )
        for name, value in (
            ("max_requests", max_requests),
            ("max_cost", max_cost),
            ("prompt_price", prompt_price),
            ("completion_price", completion_price),
        ):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"You set {name}={value!r}, but it cannot be negative or infinite. Set 0 or more.")
        self.max_requests, self.max_cost = max_requests, max_cost
        self.prompt_price, self.completion_price = prompt_price, completion_price
        self.requests, self.cost = 0, 0.0
        self._open = 0
        self._settled = threading.Condition()

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

    def reserve(self, worst: float) -> None:
        """Counts a request that costs at most `worst`. Each must be followed by [`Budget.settle`].

        Raises:
            BudgetSpent: if that could go over a cap; nothing is counted then.
        """
        with self._settled:
            self._settled.wait_for(lambda: self._fits(worst) or not self._open)
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise BudgetSpent(f"the cap of {self.max_requests} requests is reached (max_requests)")
            if not self._fits(worst):
                raise BudgetSpent(
                    f"{self.cost:.6g} is spent and the next request could cost {worst:.6g}, over the cap of "
                    f"{self.max_cost:g} (max_cost)"
                )
            self.requests += 1
            self.cost += worst
            self._open += 1

    def settle(self, unspent: float) -> None:
        """Ends a request: of what was reserved for it, `unspent` is given back."""
        with self._settled:
            self.cost -= unspent
            self._open -= 1
            self._settled.notify_all()

    def _fits(self, worst: float) -> bool:
        return self.max_cost is None or self.cost + worst <= self.max_cost
