"""One choice of one request while the engine works on it."""

from typing import NamedTuple

from localinfra.engine.drafts import Drafter
from localinfra.engine.pictures import Placed
from localinfra.engine.radix import Prefix
from localinfra.engine.request import GenerationRequest, TokenLogprob
from localinfra.engine.runs import border_before
from localinfra.engine.sampling import Sampler

# Longer forced continuations are prefilled in chunks like a prompt, so as not to hold up others.
MAX_FORCED = 32


class Group:
    """The sequences of requests submitted together: how many of them have ever had a slot, and
    when the last one got its slot."""

    __slots__ = ("client", "num_started", "request_id", "turn")

    def __init__(self, client: str = "", request_id: str = ""):
        self.client = client
        self.request_id = request_id  # for the log
        self.num_started = 0
        self.turn = 0


class Computed(NamedTuple):
    """What was computed for one choice."""

    num_read: int  # tokens of its prompt, without those from the prefix cache
    num_cached: int  # those
    num_generated: int


class Sequence:
    """Token ids, how many of them are computed, and in which slot.

    Waiting and running differ by `slot` alone: a preempted sequence later continues from the same
    tokens with the same sampler.
    """

    __slots__ = (
        "_drafter", "admitted_at", "arrived_at", "choice", "constraint", "decoding_since",
        "finished", "first", "group", "is_disordered", "num_cached", "num_prompt", "num_read",
        "num_reused", "prompt_logprobs", "request", "sampler", "saved_at", "slot", "stepped_at",
        "tokens", "was_preempted",
    )  # fmt: skip

    def __init__(
        self,
        request: GenerationRequest,
        choice: int,
        first: "Sequence | None" = None,
        group: Group | None = None,
    ):
        """`first`: the request's first choice, which scores the prompt for all; None for itself."""
        self.request = request
        self.group = group or Group(request.client)
        self.choice = choice
        self.first = first
        self.sampler: Sampler | None = None  # made for the first token
        self.constraint = request.grammar.follow() if request.grammar else None
        self.tokens = request.prompt  # copied at the first append
        self._drafter: Drafter | None = None
        self.num_prompt = len(request.prompt)
        self.num_cached = 0  # tokens whose KV cells are in the slot
        self.num_reused: int | None = None  # of the prompt, at the first admission
        self.num_read = 0  # of the prompt, at most so far: it may be read again
        self.slot: int | None = None
        self.saved_at: set[int] = set()  # positions where a chunk ends and its state is saved
        # Step numbers.
        self.admitted_at = self.decoding_since = self.stepped_at = 0
        self.arrived_at = 0  # its number in the queue
        self.is_disordered = False  # its cells can't be put in the order of its positions
        self.was_preempted = False  # by others that needed room
        self.finished = False
        self.prompt_logprobs: list[TokenLogprob] = [TokenLogprob(self.tokens[0], None)]
        if first is not None:
            self.prompt_logprobs = first.prompt_logprobs

    def append(self, token: int) -> None:
        if self.tokens is self.request.prompt:
            self.tokens = [*self.tokens]
        self.tokens.append(token)

    def advance(self, num_tokens: int) -> None:
        """The next tokens are in the slot."""
        self.num_cached += num_tokens
        self.num_read = max(self.num_read, min(self.num_cached, self.num_prompt))

    @property
    def computed(self) -> Computed:
        num_reused = self.num_reused or 0
        return Computed(max(0, self.num_read - num_reused), num_reused, self.num_generated)

    @property
    def drafter(self) -> Drafter:
        """Created on first use, from the tokens so far."""
        if self._drafter is None:
            self._drafter = Drafter(self.tokens)
        return self._drafter

    @property
    def prefix(self) -> Prefix:
        return Prefix(self.tokens, self.request.cache_salt)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_target(self) -> int:
        """Tokens to compute before the next event; mere scoring does not need the last one."""
        return len(self.tokens) if self.request.max_tokens else max(1, len(self.tokens) - 1)

    @property
    def num_pending(self) -> int:
        return self.num_target - self.num_cached

    @property
    def is_decoding(self) -> bool:
        """Whether only the last sampled token, and those its grammar forced after it, are left to
        compute."""
        return 1 <= self.num_pending <= MAX_FORCED and self.num_generated >= self.num_pending

    @property
    def picture(self) -> Placed | None:
        """The picture whose rows come next, perhaps after some that are computed."""
        for placed in self.request.pictures:
            if self.num_cached < placed.end:
                return placed if placed.at <= self.num_cached else None
        return None

    @property
    def num_shareable(self) -> int:
        """How many of the computed tokens others may use: not the rows of half a picture."""
        return border_before(self.tokens, self.num_cached)

    def until_stop(self, num_tokens: int) -> int:
        """Fewer than these if a state is to be saved on the way, or a picture begins or ends."""
        stops = [
            *self.saved_at,
            *(at for each in self.request.pictures for at in (each.at, each.end)),
        ]
        ahead = [at - self.num_cached for at in stops if at > self.num_cached]
        return min(num_tokens, *ahead) if ahead else num_tokens

    @property
    def num_unscored(self) -> int:
        """Prompt tokens that this sequence still has to score."""
        if self.first is not None or not self.request.params.score_prompt:
            return 0
        return self.num_prompt - len(self.prompt_logprobs)

    @property
    def waits_for_scores(self) -> bool:
        return self.first is not None and self.first.num_unscored > 0

    @property
    def num_reusable(self) -> int:
        """How many tokens of a cached prefix are of use: the last row must always be computed, and
        so must every row from the first unscored token on."""
        most = (len(self.prompt_logprobs) if self.num_unscored else self.num_target) - 1
        return border_before(self.tokens, most)
