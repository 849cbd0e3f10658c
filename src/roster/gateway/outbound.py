"""How a call to an upstream is addressed: the URL with its query, the headers, the key, the proxy."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import aiohttp
from yarl import URL

from roster.gateway.config import Upstream


def endpoint(upstream: Upstream, path: str) -> str:
    """A path under an upstream's URL; a query such as Azure's ?api-version= stays at the end."""
    base, mark, query = upstream.url.partition("?")
    return base.rstrip("/") + path + mark + query


def headers(upstream: Upstream) -> dict[str, str]:
    """The upstream's own headers and its key: as a bearer token, or alone in the header that `key_header` names."""
    told = {name: value.get_secret_value() for name, value in upstream.headers.items()}
    key = upstream.api_key or next(iter(upstream.api_keys), None)
    if key is None:
        return told
    secret = key.get_secret_value()
    return told | {upstream.key_header: f"Bearer {secret}" if upstream.key_header == "authorization" else secret}


def passed_headers(client: Mapping[str, str]) -> dict[str, str]:
    """The headers of a client that an upstream gets: its trace, and its name for the request."""
    return {name: client[name] for name in ("traceparent", "tracestate", "x-request-id") if name in client}


def told_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """The headers of an upstream that a client gets: its name for the request, and how much is left of its limits."""
    names = {name.lower(): value for name, value in response.headers.items()}
    return {name: value for name, value in names.items() if name == "x-request-id" or name.startswith("x-ratelimit-")}


def proxy(upstream: Upstream) -> str | None:
    """The proxy to go through: the upstream's own, else what HTTP_PROXY, HTTPS_PROXY and NO_PROXY say.

    This machine itself is never reached through a proxy that only the environment names.
    """
    if upstream.proxy is not None:
        return upstream.proxy.get_secret_value()
    url = URL(upstream.url)
    host = url.host or ""
    if _is_loopback(host) or proxy_bypass_environment(f"{host}:{url.port}"):
        return None
    return getproxies_environment().get(url.scheme)


def one_key_each(upstream: Upstream) -> list[Upstream]:
    """The upstream once for each of its keys."""
    if not upstream.api_keys:
        return [upstream]
    return [upstream.model_copy(update={"api_key": key, "api_keys": ()}) for key in upstream.api_keys]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
