"""HTTP requests without TLS.

httpx reads all authorities of the machine for each request that is made without a client, which takes 30 ms of processor time
even for an ``http://`` address. Tests ask often, above all while they wait.
"""

from __future__ import annotations

import ssl
from functools import partial

import httpx

__all__ = ["get", "post", "request"]

_TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

get = partial(httpx.get, verify=_TRUSTS_NOBODY)
post = partial(httpx.post, verify=_TRUSTS_NOBODY)
request = partial(httpx.request, verify=_TRUSTS_NOBODY)
