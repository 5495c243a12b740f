"""List and aggregatedList answers, the same for all collections: filter, order, page, envelope."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from gstack.kernel.contract import message_of
from translator_service.gce.filters import compile_filter
from translator_service.gce.links import Links
from translator_service.gce.paging import Pager

M = TypeVar("M", bound=Message)
L = TypeVar("L", bound=Message)


class View(Protocol):
    """What an answer needs of a request's view of the world."""

    @property
    def links(self) -> Links: ...

    @property
    def pager(self) -> Pager: ...


@dataclass(frozen=True)
class Later:
    """An item that is mapped only when it is shown or filtered by: a page costs as much as the page is long."""

    name: str
    creationTimestamp: str
    id: int
    build: Callable[[], Message]


def page(
    view: View,
    request: Any,
    items: Iterable[Any],
    answer: type[L],
    path: str,
    *,
    identity: Callable[[Any], str] = lambda item: str(item.id),
) -> L:
    """`answer(kind, id, items, nextPageToken, selfLink)` for a list request. path: below the project."""
    predicate = compile_filter(request.filter, message_of(answer.DESCRIPTOR.fields_by_name["items"]))
    chosen = (item for item in map(_built, items) if predicate(item)) if predicate else items
    shown, token = view.pager.page(chosen, request, scope=path, name=_name, created=_created, identity=identity)
    return answer(
        kind=kind_of(answer),
        id=view.links.path(path),
        items=[_built(item) for item in shown],
        nextPageToken=token,
        selfLink=view.links.of(path),
    )


def aggregated(
    view: View,
    request: Any,
    items: Iterable[tuple[str, Any]],
    scopes: Iterable[str],
    answer: type[L],
    collection: str,
) -> L:
    """An aggregated list. items: (scope as `zones/z`, message); scopes: all, the empty ones get a warning."""
    scoped = message_of(message_of(answer.DESCRIPTOR.fields_by_name["items"]).fields_by_name["value"])
    item_type = message_of(scoped.fields_by_name[collection])
    predicate = compile_filter(request.filter, item_type)
    chosen = items
    if predicate:
        chosen = ((where, item) for where, item in ((pair[0], _built(pair[1])) for pair in items) if predicate(item))
    shown, token = view.pager.page(
        chosen,
        request,
        scope=f"aggregated/{collection}",
        name=lambda pair: f"{_name(pair[1])} {pair[0]}",
        created=lambda pair: _created(pair[1]),
        identity=lambda pair: str(pair[1].id),
    )
    reply: Any = answer(
        kind=kind_of(answer),
        id=view.links.path("aggregated", collection),
        nextPageToken=token,
        selfLink=view.links.of("aggregated", collection),
    )
    for where, item in shown:
        getattr(reply.items[where], collection).append(_built(item))
    for where in scopes:
        if where not in reply.items:
            warning = reply.items[where].warning
            warning.code = "NO_RESULTS_ON_PAGE"
            warning.message = f"There are no results for scope '{where}' on this page."
            warning.data.add(key="scope", value=where)
    return reply  # type: ignore[no-any-return]


def kind_of(message: type[Message]) -> str:
    """`compute#instanceList` for InstanceList."""
    name = message.DESCRIPTOR.name
    return f"compute#{name[0].lower()}{name[1:]}"


def _built(item: Any) -> Any:
    return item.build() if isinstance(item, Later) else item


def _name(item: Any) -> str:
    return str(item.name)


def _created(item: Any) -> str:
    return str(item.creationTimestamp)
