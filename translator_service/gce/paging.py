"""Pages of a list: order, keyset tokens, limits. The one paging helper.

A token holds the sort key of the last item and a hash of the question, signed, so it works on every replica, an item
made or deleted between two pages neither repeats nor hides another one, and a token of another question is 400.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Sequence
from heapq import nlargest, nsmallest
from typing import Any, TypeVar

from gstack.kernel.errors import ApiError, invalid

T = TypeVar("T")
SortKey = tuple[str, ...]

MAX_RESULTS = 500
_ORDERS = ("", "name", "name asc", "name desc", "creationTimestamp", "creationTimestamp asc", "creationTimestamp desc")


class Pager:
    """Cuts pages.

    keys: the operator's key, or a function that returns a ring's keys: the first signs tokens, each of them makes a
    token good. The same on all replicas.
    """

    def __init__(self, keys: bytes | Callable[[], Sequence[bytes]]):
        self._keys = (lambda: [keys]) if isinstance(keys, bytes) else keys

    def page(
        self,
        items: Iterable[T],
        request: Any,
        *,
        scope: str,
        name: Callable[[T], str],
        created: Callable[[T], str],
        identity: Callable[[T], Any],
    ) -> tuple[list[T], str]:
        """The page a list request asks for, and the token of the next one ("" on the last).

        items: in any order, and gone through once. request: has `filter`, `orderBy`, `maxResults`, `pageToken`. scope:
        what is listed, bound into the token.
        """
        order = " ".join(request.orderBy.split())
        if order not in _ORDERS:
            raise invalid("orderBy", f"'{request.orderBy}'. Use name or creationTimestamp desc.")
        size = request.maxResults if request.HasField("maxResults") and request.maxResults else MAX_RESULTS
        if size > MAX_RESULTS:
            raise invalid("maxResults", f"'{size}'. Values must be within the range: [0, {MAX_RESULTS}]")
        by_time, descending = order.startswith("creationTimestamp"), order.endswith("desc")

        def key(item: T) -> SortKey:
            tail = (name(item), str(identity(item)))
            return (created(item), *tail) if by_time else tail

        question = hashlib.sha256(json.dumps([scope, request.filter, order]).encode()).hexdigest()[:16]
        if request.pageToken:
            last = self._read(request.pageToken, question)
            items = (item for item in items if (key(item) < last if descending else key(item) > last))
        # However many there are, no more than a page of them is held.
        found = (nlargest if descending else nsmallest)(size + 1, items, key)
        if len(found) <= size:
            return found, ""
        return found[:size], self._write(key(found[size - 1]), question)

    def _write(self, key: SortKey, question: str) -> str:
        payload = json.dumps([question, *key], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(_sign(self._keys()[0], payload) + payload).rstrip(b"=").decode()

    def _read(self, token: str, question: str) -> SortKey:
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            signature, payload = raw[:12], raw[12:]
            if not any(hmac.compare_digest(signature, _sign(key, payload)) for key in self._keys()):
                raise ValueError
            found, *key = json.loads(payload)
            if found != question:
                raise ValueError
        except (ValueError, TypeError):
            raise ApiError(400, "Invalid value for field 'pageToken'.", "invalid", "pageToken") from None
        return tuple(key)


def _sign(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, payload, "sha256")[:12]
