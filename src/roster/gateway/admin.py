"""For whoever runs the gateway, under /admin and behind the admin key: keys, spending, and a page that shows both.

Without `admin` in the config there is nothing here. The page takes the key as the password of HTTP's basic
authentication, so that a browser asks for it; whatever changes something takes it as a bearer token only, which no
other page can make a browser send.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import Field

from roster.errors import RosterError
from roster.gateway import virtual_keys
from roster.gateway.config import Name, Rules, Secret
from roster.gateway.errors import ApiError
from roster.gateway.keys import check_new, digest
from roster.gateway.spend import COLUMNS, spent, times
from roster.gateway.store import StoreAway

if TYPE_CHECKING:
    from roster.gateway.gateway import Gateway

router = APIRouter(prefix="/admin", include_in_schema=False)
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_SAFE = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}


def check_admin(admin: Secret | None, method: str, authorization: str | None) -> None:
    """Lets the admin pass.

    Raises:
        ApiError: 404 where there is no admin key, 401 where it was not given.
    """
    if admin is None:
        raise ApiError(404, "Not Found", "not_found")
    scheme, _, told = (authorization or "").partition(" ")
    if scheme.lower() == "basic" and method in ("GET", "HEAD"):
        try:
            told = base64.b64decode(told.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            told = ""
    elif scheme.lower() != "bearer":
        told = ""
    presented = hashlib.sha256(told.strip().encode("utf-8", "surrogateescape")).digest()
    if not hmac.compare_digest(presented, digest(admin)):
        error = ApiError(401, "The admin key was not given.", "invalid_api_key")
        error.authenticate = 'Basic realm="roster", charset="UTF-8"'
        raise error


class NewKey(Rules):
    """POST /admin/keys."""

    name: Name
    days: Annotated[float, Field(gt=0, le=36_500)] | None = None


@router.post("/keys")
async def create_key(request: Request, body: NewKey) -> JSONResponse:
    """Makes a key; the answer is the only one that ever shows it."""
    gateway = _gateway(request)
    rules = Rules.model_validate(body.model_dump(exclude={"name", "days"}))
    try:
        check_new(gateway.runtime.config, body.name, rules)
        secret = await virtual_keys.create(gateway.store, body.name, rules, body.days)
    except StoreAway:
        raise
    except RosterError as error:
        raise ApiError(400, str(error), "invalid_request") from None
    await gateway.refresh_keys()
    return JSONResponse({"name": body.name, "key": secret}, 201)


@router.get("/keys")
async def list_keys(request: Request) -> dict[str, Any]:
    """All keys that were issued, without their secrets, which nobody has."""
    return {"data": [key.told() for key in await virtual_keys.listed(_gateway(request).store)]}


@router.delete("/keys/{name:path}")
async def revoke_key(request: Request, name: str) -> dict[str, str]:
    """Makes a key worthless."""
    gateway = _gateway(request)
    try:
        await virtual_keys.revoke(gateway.store, name)
    except StoreAway:
        raise
    except RosterError as error:
        raise ApiError(404, str(error), "not_found") from None
    await gateway.refresh_keys()
    return {"revoked": name}


@router.get("/spend")
async def spending(request: Request, by: str = "key", days: float | None = None) -> dict[str, Any]:
    """Sums by key, team, model, policy or day."""
    try:
        return {"by": by, "data": [each._asdict() for each in await spent(_gateway(request).store, by, days)]}
    except StoreAway:
        raise
    except RosterError as error:
        raise ApiError(400, str(error), "invalid_request", param="by") from None


@router.get("")
async def page(request: Request, days: Annotated[float, Field(gt=0, le=3650)] = 30) -> Response:
    """Spending, shares, quality and times, as a page without scripts."""
    store = _gateway(request).store
    told = {by: await spent(store, by, days) for by in COLUMNS}
    keys = await virtual_keys.listed(store)
    html = _TEMPLATES.get_template("admin.html.j2").render(
        told=told, times=await times(store, days), days=days, keys=keys
    )
    return HTMLResponse(html, headers=_SAFE)


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway
