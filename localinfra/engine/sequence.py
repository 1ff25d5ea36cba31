"""One choice of one request while the engine works on it."""

from localinfra.engine.drafts import Drafter
from localinfra.engine.radix import Prefix
from localinfra.engine.request import GenerationRequest, TokenLogprob
from localinfra.engine.sampling import Sampler

# Tokens after which a grammar's continuation is read like a prompt, in chunks that others can bear.
MAX_FORCED = 32


class Group:
    """The sequences of requests that were submitted together, how many of them had a slot, and when
    one last got one."""

    __slots__ = ("client", "num_started", "turn")

    def __init__(self, client: str = ""):
        self.client = client
        self.num_started = 0
        self.turn = 0


class Sequence:
    """Token ids, how many of them are computed, and where.

    Waiting and running differ by `slot` alone: a sequence that had to give up its slot goes on
    later from the same tokens with the same sampler.
    """

    __slots__ = (
        "_drafter", "admitted_at", "arrived_at", "choice", "constraint", "decoding_since",
        "finished", "first", "group", "is_disordered", "num_cached", "num_prompt", "num_reused",
        "prompt_logprobs", "request", "sampler", "slot", "stepped_at", "tokens", "was_preempted",
    )  # fmt: skip

    def __init__(
        self,
        request: GenerationRequest,
        choice: int,
        first: "Sequence | None" = None,
        group: Group | None = None,
    ):
        """`first` is the request's first choice, which scores for all; None for itself."""
        self.request = request
        self.group = group or Group(request.client)
        self.choice = choice
        self.first = first
        self.sampler: Sampler | None = None  # made for the first draw
        self.constraint = request.grammar.follow() if request.grammar else None
        self.tokens = request.prompt  # its own from the first token on that is appended
        self._drafter: Drafter | None = None
        self.num_prompt = len(request.prompt)
        self.num_cached = 0  # tokens whose keys and values are in the slot
        self.num_reused: int | None = None  # of the prompt, at the first admission
        self.slot: int | None = None
        # The numbers of these steps.
        self.admitted_at = self.decoding_since = self.stepped_at = 0
        self.arrived_at = 0  # its number in the queue
        self.is_disordered = False  # its cells can't be laid in the order of its positions
        self.was_preempted = False  # it ran, until room was needed
        self.finished = False
        self.prompt_logprobs: list[TokenLogprob] = [TokenLogprob(self.tokens[0], None)]
        if first is not None:
            self.prompt_logprobs = first.prompt_logprobs

    def append(self, token: int) -> None:
        if self.tokens is self.request.prompt:
            self.tokens = [*self.tokens]
        self.tokens.append(token)

    @property
    def drafter(self) -> Drafter:
        """Made when first asked for: it starts from the tokens that are there then."""
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
        """Tokens to compute before the next event; a mere scoring needs none of its last one."""
        return len(self.tokens) if self.request.max_tokens else max(1, len(self.tokens) - 1)

    @property
    def num_pending(self) -> int:
        return self.num_target - self.num_cached

    @property
    def is_decoding(self) -> bool:
        """It has begun to answer, and nothing is to be computed but its last tokens: the one that
        was drawn, and those that its grammar put after it."""
        return 1 <= self.num_pending <= MAX_FORCED and self.num_generated >= self.num_pending

    @property
    def num_unscored(self) -> int:
        """Prompt tokens whose logprob this sequence still has to compute."""
        if self.first is not None or not self.request.params.score_prompt:
            return 0
        return self.num_prompt - len(self.prompt_logprobs)

    @property
    def waits_for_scores(self) -> bool:
        return self.first is not None and self.first.num_unscored > 0

    @property
    def num_reusable(self) -> int:
        """How much of a cached prefix would do: the last row is always needed, and every row from
        the first unscored token's on."""
        return (len(self.prompt_logprobs) if self.num_unscored else self.num_target) - 1
