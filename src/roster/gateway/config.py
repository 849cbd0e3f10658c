"""The parts of the gateway's config file, as pydantic models: what may be written, and its defaults.

Unknown keys are errors. The file as a whole is in `config_file.py`; how it is read, and how errors are worded, in
`reading.py`.
Prices are in one currency of the user's choice per million tokens; times are in seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
"""Goes into headers and metrics, so it is plain."""
HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]  # in lower case
Modality = Literal["text", "image", "audio", "video", "file"]
Period = Literal["day", "month", "total"]
LimitField = Literal["max_tokens", "max_completion_tokens"]
LIMIT_FIELDS = get_args(LimitField)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Listen(Strict):
    """Where the gateway is reached, and what it bears from those who connect.

    Attributes:
        host: an address or a name of this machine.
        port: 0: any that is free.
        connections: at once; further ones are closed.
        head: seconds within which the head of a request must have come.
        idle: seconds that a connection is kept between requests.
        stalled: seconds that a client may leave what it was sent unread.
        keep_alive: seconds of silence in a stream after which a comment tells the client that it goes on.
        cors: origins whose pages may call the gateway from a browser, such as https://app.example.org; * for all.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    connections: Annotated[int, Field(ge=1)] = 4096
    head: Seconds = 10.0
    idle: Annotated[int, Field(ge=1, le=3600)] = 5
    stalled: Seconds = 60.0
    keep_alive: Seconds = 15.0
    cors: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = Field(default=(), strict=False)


class Timeouts(Strict):
    """Of one call to an upstream.

    Attributes:
        connect: until the connection stands.
        first_token: until the first piece of a streamed answer.
        gap: that a stream may be silent after its first piece; an upstream's keep-alives are no silence.
        total: until the answer is complete.
    """

    connect: Seconds = 3.0
    first_token: Seconds = 30.0
    gap: Seconds = 120.0
    total: Seconds = 300.0


class Breaker(Strict):
    """When a model is left alone, told for all models of an upstream.

    Attributes:
        failures: so many in a row open the circuit.
        cooldown: until one request tries it again.
    """

    failures: Annotated[int, Field(ge=1)] = 5
    cooldown: Seconds = 15.0


class Health(Strict):
    """Asking an upstream now and then whether it is there, beside what requests show.

    Attributes:
        every: seconds between questions.
        path: under the upstream's URL; a status below 500 is a sign of life.
        failures: so many in a row, and its models are left alone until it answers.
    """

    every: Seconds = 15.0
    path: Annotated[str, Field(pattern=r"^/[!-~]*$")] = "/models"
    failures: Annotated[int, Field(ge=1)] = 2


class Upstream(Strict):
    """A server that speaks OpenAI's API.

    Attributes:
        url: up to and including the version, such as http://127.0.0.1:8001/v1; a query such as ?api-version= is kept.
        api_key: sent as a bearer token, or as `key_header` says.
        api_keys: several of them: calls go to the one that is least busy, and to another when one is refused.
        health: ask it regularly whether it is there; by default only requests show it.
        drop: fields of the request that this server refuses; never the one that carries the limit of output tokens.
        limit_field: which one that is, in chats; by default what the provider at this host takes.
        key_header: the header that carries the key alone, such as api-key.
        headers: further ones to send with every call.
        proxy: to go through; by default what HTTP_PROXY, HTTPS_PROXY and NO_PROXY say.
        lists_models: whether `--check` may rely on its /models.
    """

    url: str
    api_key: SecretStr | None = None
    api_keys: tuple[SecretStr, ...] = Field(default=(), strict=False)
    health: Health | None = None
    timeouts: Timeouts = Timeouts()
    breaker: Breaker = Breaker()
    drop: tuple[str, ...] = Field(default=(), strict=False)
    limit_field: LimitField | None = None
    key_header: HeaderName = "authorization"
    headers: dict[HeaderName, SecretStr] = {}
    proxy: SecretStr | None = None
    lists_models: bool = True

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        parsed = AnyHttpUrl(url)
        if parsed.username or parsed.password or parsed.fragment:
            raise ValueError("must not carry a user, a password or a fragment: give the key as api_key")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Upstream:
        if self.api_key is not None and self.api_keys:
            raise ValueError("give `api_key` or `api_keys`, one of them")
        return self


class Price(Strict):
    """Per million tokens.

    Attributes:
        input: read.
        output: written.
        cached_input: read from the provider's cache, where the upstream says how many were; by default like others.
        reasoning: written as thoughts, where the upstream says how many were; by default like others.
    """

    input: Amount
    output: Amount
    cached_input: Amount | None = None
    reasoning: Amount | None = None


class Model(Strict):
    """A model that clients may ask for, and policies choose.

    Attributes:
        upstream: who serves it; several names for replicas, among which calls go to the least busy.
        name: what the upstream calls it; by default the same.
        price: what it costs.
        max_output: the most tokens of an answer, where the request sets no limit of its own: budgets reserve for them.
        logprobs: whether the upstream returns token log-probabilities, which cascades need.
        limit_field: in which it is told the limit of output tokens; by default the upstream's.
        tokenizer: path of its tokenizer.json (relative to the config file): counts where the upstream does not.
        image_tokens: the most tokens of one picture, by the provider's rule; budgets reserve for them.
        context: tokens that it can read; a policy leaves it out for longer prompts.
        modalities: what it reads beside text; by default that is not known.
        tools: whether it can call tools.
    """

    upstream: str | Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    name: str | None = None
    price: Price
    max_output: Annotated[int, Field(ge=1)] = 4096
    logprobs: bool = True
    limit_field: LimitField | None = None
    tokenizer: str | None = None
    image_tokens: Annotated[int, Field(ge=1)] | None = None
    context: Annotated[int, Field(ge=1)] | None = None
    modalities: tuple[Modality, ...] | None = Field(default=None, strict=False)
    tools: bool = True

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The names of all who serve it."""
        return (self.upstream,) if isinstance(self.upstream, str) else self.upstream


class Team(Strict):
    """Keys that share a budget.

    Attributes:
        budget: the most that all of them together may spend in each period; None: no limit.
        period: day, month (both UTC) or total.
    """

    budget: Amount | None = None
    period: Period = "month"


class Rules(Team):
    """What the owner of a key may do, beside the team's limits.

    Attributes:
        team: whose budget counts too.
        models: the names (of models and policies) that a request may give; empty: all.
        rpm: requests a minute.
        tpm: tokens a minute, read and written.
        cache: whether a request that was answered before is answered the same again, for nothing.
    """

    team: Name | None = None
    models: tuple[Name, ...] = Field(default=(), strict=False)
    rpm: Annotated[int, Field(ge=1)] | None = None
    tpm: Annotated[int, Field(ge=1)] | None = None
    cache: bool = False


class Secret(Strict):
    """What is compared with what a client presents.

    Attributes:
        key: the secret itself, at least 16 characters; best as ${VARIABLE}.
        sha256: or the hexadecimal SHA-256 of the secret.
    """

    key: SecretStr | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give `key` or `sha256`, one of them")
        if self.key is not None and len(self.key.get_secret_value()) < 16:
            raise ValueError("the key is shorter than 16 characters")
        return self


class Key(Rules, Secret):
    """An API key of the gateway, and what its owner may do."""


class Limits(Strict):
    """What a request may ask.

    Attributes:
        request_bytes: a larger body is refused with status 413.
        retries: on how many further models a failed call is tried.
        remembered_prompts: so many of the last prompts are kept in memory, for feedback on their answers.
        remembered_bytes: and so much text of them, in bytes.
        spool_bytes: of what may wait in memory while the store does not answer.
        keep_days: how long calls and feedback stay in the store.
        log_lines: so many a second at most, beside errors.
    """

    request_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    remembered_prompts: Annotated[int, Field(ge=0)] = 10_000
    remembered_bytes: Annotated[int, Field(ge=0)] = 32 * 1024 * 1024
    spool_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    keep_days: Annotated[int, Field(ge=1)] = 90
    log_lines: Annotated[int, Field(ge=1)] = 200


class Experiment(Strict):
    """Requests shared out among policies, to compare them.

    Attributes:
        arms: the weight of each policy.
        by: request: drawn for each; key: a key always meets the same policy.
    """

    arms: Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], Field(min_length=2)]
    by: Literal["request", "key"] = "request"


class Shadow(Strict):
    """A policy that is tried on real requests without anybody seeing its answers, which are paid for.

    Attributes:
        of: the policy whose requests are asked again.
        policy: the one that is tried.
        share: of the requests.
    """

    of: str
    policy: str
    share: Annotated[float, Field(gt=0, le=1)] = 0.1


class Cache(Strict):
    """Answers that may be given again, to keys that have `cache: true`.

    Attributes:
        bytes: of all together.
        seconds: that one is kept.
    """

    bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    seconds: Seconds = 3600.0
