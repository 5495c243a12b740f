"""The rows of CloudStack's answers, checked where they come in: what they must have, and of which types.

A mapping function that reads a key relies on this table, so it may subscript what is required here and need not doubt
the type of what is there. An answer that is not as it must be (torn, or changed by something in between) is no answer:
`Unreachable` with the command's name, which is a 503 for who reads and one more question for an operation.

Only keys that somebody reads are here. A null is the same as an absent key, because CloudStack omits nulls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from translator_service.cloudstack.errors import Unreachable

Row = dict[str, Any]
_Test = Callable[[Any], bool]

# What the fields of protos hold, which these numbers become.
_INT32, _INT64 = 1 << 31, 1 << 63
_ABSENT = object()


def _is_text(value: Any) -> bool:
    """Half of a surrogate pair, which a broken escape leaves, can neither be encoded nor shown."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_identity(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isascii()


def _is_flag(value: Any) -> bool:
    return value is True or value is False


def _below(limit: int) -> _Test:
    """Whole numbers, which some commands write as texts."""

    def test(value: Any) -> bool:
        if isinstance(value, str):
            digits = value[1:] if value[:1] == "-" else value
            if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
                return False
            value = int(value)
        return isinstance(value, int) and value is not True and value is not False and -limit <= value < limit

    return test


_is_small, _is_number = _below(_INT32), _below(_INT64)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_map(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(key) and _is_text(text) for key, text in value.items())


_TYPES: dict[str, _Test] = {
    "id": _is_identity,
    "text": _is_text,
    "flag": _is_flag,
    "small": _is_small,
    "number": _is_number,
    "texts": _is_texts,
    "map": _is_map,
}


@dataclass(frozen=True)
class _Shape:
    """What a row is like. required, optional: (key, test); many, one: (key, shape) of rows in it and of a row in it."""

    required: tuple[tuple[str, _Test], ...]
    optional: tuple[tuple[str, _Test], ...]
    many: tuple[tuple[str, _Shape], ...]
    one: tuple[tuple[str, _Shape], ...]

    def read(self, row: Any) -> Row | None:
        """The row, without its nulls; None for one that is not of this shape."""
        if not isinstance(row, dict):
            return None
        for key, test in self.required:
            if not test(row.get(key)):
                return None
        nulls = []
        for key, test in self.optional:
            value = row.get(key, _ABSENT)
            if value is _ABSENT:
                continue
            if value is None:
                nulls.append(key)
            elif not test(value):
                return None
        changes: Row = {}
        for key, shape in self.many:
            value = row.get(key)
            if value is None:
                nulls += [key] if key in row else []
                continue
            found = shape.read_all(value)
            if found is None:
                return None
            if found is not value:
                changes[key] = found
        for key, shape in self.one:
            value = row.get(key)
            if value is None:
                nulls += [key] if key in row else []
            elif shape.read(value) is None:
                return None
        if nulls or changes:
            return {key: value for key, value in (row | changes).items() if key not in nulls}
        return row

    def read_all(self, rows: Any) -> list[Row] | None:
        """The rows; the very same list when there is nothing to change, None when one is not of this shape."""
        if not isinstance(rows, list):
            return None
        found = []
        same = True
        for row in rows:
            read = self.read(row)
            if read is None:
                return None
            same = same and read is row
            found.append(read)
        return rows if same else found


def _shape(**keys: Any) -> _Shape:
    """`_shape(id="id!", state="text", nic=[{...}])`: types by name, `!` for what must be there, a list for rows."""
    required, optional, many, one = [], [], [], []
    for key, kind in keys.items():
        if isinstance(kind, list):
            many.append((key, _shape(**kind[0])))
        elif isinstance(kind, dict):
            one.append((key, _shape(**kind)))
        elif kind.endswith("!"):
            required.append((key, _TYPES[kind[:-1]]))
        else:
            optional.append((key, _TYPES[kind]))
    return _Shape(tuple(required), tuple(optional), tuple(many), tuple(one))


_TAGS = [{"key": "text!", "value": "text"}]
_OWNER = {"account": "text", "projectid": "text", "project": "text"}
_GROUP_RULES = [
    {
        "ruleid": "id!", "protocol": "text!", "startport": "small", "endport": "small", "icmptype": "small",
        "icmpcode": "small", "cidr": "text",
    }
]  # fmt: skip
_OFFERING = {
    "id": "id!",
    "name": "text!",
    "displaytext": "text",
    "created": "text",
    "iscustomized": "flag",
    "zoneid": "text",
}
_PERSON = {
    "id": "id!",
    "username": "text!",
    "account": "text!",
    "accountid": "id!",
    "domainid": "text!",
    "domain": "text",
}

_SHAPES: Mapping[str, _Shape] = {
    "listZones": _shape(
        id="id!", name="text!", description="text", networktype="text", securitygroupsenabled="flag",
        allocationstate="text",
    ),
    "listServiceOfferings": _shape(
        **_OFFERING, cpunumber="small", cpuspeed="small", memory="small",
        serviceofferingdetails={
            "mincpunumber": "small", "maxcpunumber": "small", "minmemory": "small", "maxmemory": "small",
        },
    ),
    "listDiskOfferings": _shape(**_OFFERING, disksize="number"),
    "listTemplates": _shape(
        **_OWNER, id="id!", name="text!", zoneid="text", displaytext="text", created="text", isready="flag",
        status="text", size="number", physicalsize="number", arch="text", crossZones="flag", isfeatured="flag",
        ispublic="flag", ostypeid="text", passwordenabled="flag", isdynamicallyscalable="flag", requireshvm="flag",
        hypervisor="text", details="map", tags=_TAGS,
    ),
    "listTemplatePermissions": _shape(ispublic="flag", account="texts"),
    "listOsTypes": _shape(id="id!", description="text"),
    "listHypervisors": _shape(name="text!"),
    "listNetworks": _shape(
        **_OWNER, id="id!", name="text!", zoneid="text!", type="text", displaytext="text", created="text", cidr="text",
        gateway="text", vpcid="text", state="text", egressdefaultpolicy="flag", service=[{"name": "text!"}],
    ),
    "listVirtualMachines": _shape(
        id="id!", name="text!", zoneid="text!", state="text", created="text", lastupdated="text", jobid="text",
        serviceofferingid="text", serviceofferingname="text", cpunumber="small", memory="small",
        deleteprotection="flag", details="map", securitygroup=[{"id": "id!", "name": "text!"}],
        nic=[
            {
                "id": "id!", "networkid": "text!", "networkname": "text", "ipaddress": "text", "publicip": "text",
                "deviceid": "small",
            }
        ],
    ),
    "listVolumes": _shape(
        id="id!", name="text!", zoneid="text!", type="text", state="text", created="text", attached="text",
        size="number", deviceid="small", diskofferingid="text", templateid="text", templatename="text", vmname="text",
        vmstate="text", virtualmachineid="text", tags=_TAGS,
    ),
    "listPublicIpAddresses": _shape(
        id="id!", ipaddress="text!", zoneid="text!", state="text", allocated="text", issourcenat="flag",
        isstaticnat="flag", issystem="flag", hasrules="flag", associatednetworkid="text", virtualmachineid="text",
        virtualmachinename="text", tags=_TAGS,
    ),
    "listFirewallRules": _shape(
        id="id!", protocol="text!", startport="small", endport="small", icmptype="small", icmpcode="small",
        cidrlist="text", ipaddressid="text", ipaddress="text", networkid="text", state="text",
    ),
    "listSecurityGroups": _shape(
        id="id!", name="text!", description="text", virtualmachinecount="small", virtualmachineids="texts",
        ingressrule=_GROUP_RULES, egressrule=_GROUP_RULES,
    ),
    "createSecurityGroup": _shape(id="id!", name="text!"),
    "listSSHKeyPairs": _shape(name="text!", fingerprint="text!"),
    "listProjects": _shape(
        id="id!", name="text!", displaytext="text", created="text", owner=[{"account": "text"}],
    ),
    "listAccounts": _shape(id="id!", name="text!", created="text"),
    "listUsers": _shape(**_PERSON, email="text", apikey="text"),
    "getUser": _shape(**_PERSON, email="text", apikey="text"),
    "listCapabilities": _shape(
        cloudstackversion="text", allowuserexpungerecovervm="flag", customdiskofferingmaxsize="number",
    ),
}  # fmt: skip
_ANY = _shape()


def check(command: str, rows: Any) -> list[Row]:
    """The rows of a list command, without nulls. Raises Unreachable when one is not as it must be."""
    found = _SHAPES.get(command, _ANY).read_all(rows)
    if found is None:
        raise Unreachable(f"{command}: a row is not as it must be")
    return found


def many(command: str, body: Row) -> list[Row]:
    """The rows in the body of a list command; an empty list, or a page beyond the end, has no array at all.

    Raises Unreachable for what is no list: a torn answer must not look like an empty one.
    """
    if not _is_small(body.get("count", 0)) or int(body.get("count", 0)) < 0:
        raise Unreachable(f"{command}: unexpected count")
    values = [value for key, value in body.items() if key != "count"]
    if not values:
        return []
    if len(values) > 1:
        raise Unreachable(f"{command}: more than one list")
    return check(command, values[0])


def one(command: str, body: Row) -> Row:
    """The object of a synchronous command, {} for a body without one. Raises Unreachable as `check` does."""
    found = next((value for value in body.values() if isinstance(value, dict)), None)
    return {} if found is None else check(command, [found])[0]
