"""Paths to methods, compiled from the protos; and the rest of Google's methods (see others.py).

The files `*_methods.txt` list every method of the APIs, of IAM those of service accounts (from their discovery
documents): what is there and not in our protos is refused by name, what is in neither is 404.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway import codec, others, tokens
from gateway.others import Other
from gstack.kernel import contract
from gstack.kernel.contract import http_rule, method_id, reads, waits
from gstack.kernel.errors import ApiError, unsupported


@dataclass(frozen=True)
class Surface:
    """An API of Google's that we serve.

    package: of its protos. prefix: of its paths, before the version. other_methods: file with the rest of its methods.
    canonical_status: errors carry `status`, as those of Google's younger APIs. mount: what stands before all its paths
    here, where APIs that have hosts of their own at Google share one. advice: what else a client can do.
    """

    package: str
    prefix: str
    versions: tuple[str, ...]
    other_methods: str
    scopes: tokens.Scopes
    canonical_status: bool
    mount: str = ""
    advice: str = ""


COMPUTE = Surface(
    contract.COMPUTE, "compute/", ("v1", "beta", "alpha", "v1beta16"), "gce_methods.txt", tokens.COMPUTE, False
)
IAM = Surface(contract.AUTH, "", ("v1",), "iam_methods.txt", tokens.IAM, True)


def _beside(name: str, package: str, scopes: tokens.Scopes, **more: Any) -> Surface:
    options: dict[str, Any] = {"versions": ("v1",), "canonical_status": True, "mount": f"{name}/", **more}
    return Surface(f"{contract.AUTH_APIS}.{package}", "", other_methods=f"{name}_methods.txt", scopes=scopes, **options)


RESOURCE_MANAGER = _beside("cloudresourcemanager", "resourcemanager.v1", tokens.RESOURCE_MANAGER)
SERVICE_USAGE = _beside("serviceusage", "serviceusage.v1", tokens.SERVICE_USAGE)
CREDENTIALS = _beside("iamcredentials", "iamcredentials.v1", tokens.CREDENTIALS)
BILLING = _beside("cloudbilling", "cloudbilling.v1", tokens.BILLING)
OS_LOGIN = _beside(
    "oslogin",
    "oslogin.v1",
    tokens.COMPUTE,
    versions=("v1", "v1beta", "v1alpha"),
    advice=" There is no OS Login here: take enable-oslogin out of the metadata of project and instance, and keys in "
    "metadata let people in.",
)
# What clients of Compute Engine ask besides.
BESIDES = (RESOURCE_MANAGER, SERVICE_USAGE, CREDENTIALS, BILLING, OS_LOGIN)

_CONTROL = re.compile("[\\x00-\\x1f\\x7f]")
# Parameters of every method that change nothing here, or are handled by the gateway itself.
SYSTEM_PARAMETERS = frozenset(
    ("alt", "fields", "prettyPrint", "key", "quotaUser", "userIp", "callback", "oauth_token", "uploadType",
     "upload_protocol", "access_token", "xgafv", "trace", "pp")
)  # fmt: skip


@dataclass
class Route:
    """A method we have: how to make its request message and how to encode its reply."""

    id: str
    verb: str
    rpc: str  # /package.Service/Method
    descriptor: MethodDescriptor
    request: type[Message]
    reply: type[Message]
    encode: Callable[[Message], dict[str, Any]]
    parameters: dict[str, FieldDescriptor]
    body: str
    waits: bool  # for something to end, as long as it may
    others: frozenset[str]  # parameters that GCE has and we do not
    reads: bool

    @property
    def mutates(self) -> bool:
        """Waiting for an operation is a POST and changes nothing; Google's read-only scopes allow it."""
        return not self.reads and not self.waits

    def decode(self, path: dict[str, str], query: list[tuple[str, str]], body: bytes) -> tuple[Message, list[str]]:
        """The request message, and what a PATCH clears. Raises 400 naming the parameter or field at fault."""
        message, cleared = self.request(), list[str]()
        for name, text in query:
            descriptor = self.parameters.get(name)
            if descriptor is not None and descriptor.is_repeated:
                getattr(message, descriptor.name).append(codec.scalar(descriptor)(text, name))
            elif descriptor is not None:
                if text or descriptor.type == FieldDescriptor.TYPE_STRING:
                    setattr(message, descriptor.name, codec.scalar(descriptor)(text, name))
            elif name.lstrip("$.") not in SYSTEM_PARAMETERS and text.lower() not in ("", "false", "0", "default"):
                if name in self.others:
                    raise unsupported(name, "not supported here.")
                raise ApiError(
                    400,
                    f'Invalid request. Unknown name "{name}": Cannot bind query parameter. '
                    f"Field '{name}' could not be found in request message.",
                    "badRequest",
                    name,
                )
        for name, text in path.items():
            if _CONTROL.search(text):
                raise ApiError(400, f"Invalid value for field '{name}': it has control characters.", "invalid", name)
            setattr(message, name, text)
        if self.body and body:
            target = getattr(message, self.body)
            target.SetInParent()
            value = codec.from_json(body)
            codec.decoder(target.DESCRIPTOR)(target, value, self.body)
            if self.verb == "PATCH":
                cleared = list(codec.cleared(target.DESCRIPTOR, value))
        return message, cleared


@dataclass
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    # verb -> (names of the path parameters, method)
    methods: dict[str, tuple[tuple[str, ...], Route | Other]] = field(default_factory=dict)


class Router:
    """A tree of path segments below the version. A verb after the last segment (`:disable`) is a segment too."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self._root = _Node()
        self._verbs: set[str] = set()
        self.routes: list[Route] = []
        known = {other.id: other for other in others.read(surface.other_methods)}
        for service in contract.services(surface.package):
            for method in service.methods:
                self._add_method(service.full_name, method, known.get(method_id(method)))
        for other in known.values():
            self._add(other.verb, other.segments, other)

    def _add_method(self, service: str, method: MethodDescriptor, googles: Other | None) -> None:
        rule = http_rule(method)
        reply = GetMessageClass(method.output_type)
        route = Route(
            id=method_id(method),
            verb=rule.verb,
            rpc=f"/{service}/{method.name}",
            descriptor=method,
            request=GetMessageClass(method.input_type),
            reply=reply,
            encode=codec.encoder(reply.DESCRIPTOR),
            parameters={
                item.json_name: item
                for item in method.input_type.fields
                if item.name != rule.body and f"{{{item.name}}}" not in rule.path
            },
            body=rule.body,
            waits=waits(method),
            others=frozenset(one.name for one in googles.query_parameters()) if googles else frozenset(),
            reads=reads(method),
        )
        self.routes.append(route)
        self._add(rule.verb, rule.path.removeprefix(f"/{self.surface.prefix}{self.surface.versions[0]}/"), route)

    def _add(self, verb: str, path: str, target: Route | Other) -> None:
        node, names = self._root, []
        path, colon, custom = path.partition(":")
        if colon:
            path += f"/:{custom}"
            self._verbs.add(custom)
        for segment in path.split("/"):
            if segment.startswith("{"):
                names.append(segment.strip("{}+"))
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        node.methods.setdefault(verb, (tuple(names), target))

    def find(self, verb: str, path: str) -> tuple[Route | Other, dict[str, str]]:
        """The method for `projects/p/zones/z/...` and its path parameters, decoded. Raises 404 or 405.

        Double and trailing slashes are looked over. A name that is still escaped is decoded once more, because gcloud
        escapes the last segment of a link twice. `projects` may be left out, and stand before `locations`: paths of the
        discovery document are below it, and clients put them behind whatever they were told is the base. Of a method
        that is not ours the only parameter is `path`.
        """
        segments = [segment for segment in path.split("/") if segment]
        if segments and self._verbs:
            last, colon, custom = segments[-1].rpartition(":")
            if colon and custom in self._verbs:
                segments[-1:] = [last, f":{custom}"]
        given = segments
        if self.surface is COMPUTE and segments:
            if segments[0] not in self._root.literals:
                segments = ["projects", *segments]
            elif segments[:2] == ["projects", "locations"]:
                segments = segments[1:]
        found = _walk(self._root, segments, 0, [])
        if found is None or (segments is not given and verb not in found[0].methods):
            raise ApiError(404, f"The requested URL /{path.lstrip('/')} was not found on this server.", "notFound")
        node, values = found
        if verb not in node.methods:
            raise ApiError(405, f"The request method {verb} is inappropriate for the URL.", "httpMethodNotAllowed")
        names, target = node.methods[verb]
        if isinstance(target, Other):
            return target, {"path": unquote("/".join(segments))}
        decoded = (unquote(unquote(value)) if "%" in value else value for value in values)
        return target, dict(zip(names, decoded, strict=True))


def _walk(node: _Node, segments: list[str], index: int, values: list[str]) -> tuple[_Node, list[str]] | None:
    if index == len(segments):
        return (node, values) if node.methods else None
    below = node.literals.get(segments[index])
    if below is not None and (found := _walk(below, segments, index + 1, values)):
        return found
    if node.parameter is not None:
        return _walk(node.parameter, segments, index + 1, [*values, segments[index]])
    return None
