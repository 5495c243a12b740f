"""Templates: list, create from a disk or a snapshot, register by URL, change, share, delete.

A download ends as the settings say (`job_seconds` of registerTemplate). A host that begins with `nowhere.` has no
address, and of a file whose name begins with `missing` the download fails.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from simulator import errors
from simulator.commands import Call, Listing, command, missing
from simulator.errors import ApiError
from simulator.families import tags
from simulator.families.catalog import HYPERVISOR, Rendered, os_type_name, selected
from simulator.families.machines import WORK_DONE, check_limit, describe, owner_fields, removed
from simulator.world import Account, Job, Snapshot, Template, VirtualMachine, Volume, Zone, timestamp

_FILTERS = (
    "featured", "self", "selfexecutable", "shared", "sharedexecutable", "executable", "community", "all",
)  # fmt: skip
_MIB = 1 << 20
_COMPLETE = "Download Complete"
_FAILED = "HTTP Server returned 404 (expected 200 OK) "
# Endings of a URL by format; each may be followed by one of a packer.
_ENDINGS = {"VHD": (".vhd",), "VHDX": (".vhdx",), "QCOW2": (".qcow2",), "OVA": (".ova",), "RAW": (".img", ".raw")}
_PACKED = ("", ".zip", ".bz2", ".gz")


# Answers


def _render(template: Template, zone: Zone) -> Rendered:
    item = _head(template) | {"passwordenabled": template.password_enabled}
    item |= owner_fields(template.account) | {"zoneid": zone.id, "zonename": zone.name}
    if template.ready and template.shown_size:
        physical = template.physical_size
        item["size"] = template.size
        item |= {"physicalsize": template.size if physical is None else physical} if physical != 0 else {}
    item |= _tail(template)
    item["isextractable"] = template.type != "BUILTIN" if template.extractable is None else template.extractable
    if template.source is not None:
        item["sourcetemplateid"] = template.source.id
    if template.type == "BUILTIN":
        item["checksum"] = ""
    stored = {"downloadState": "DOWNLOADED", "datastore": "nfs://192.0.2.1:/secondary", "downloadPercent": "100"}
    return item | {
        "details": template.details,
        "downloaddetails": [stored] if template.ready else [],
        "arch": template.arch,
        "sshkeyenabled": False,
        "directdownload": False,
        "deployasis": False,
        "forcks": False,
        "requireshvm": template.type != "BUILTIN" if template.requires_hvm is None else template.requires_hvm,
        "hasannotations": False,
    }


def _head(template: Template) -> Rendered:
    return {
        "id": template.id,
        "name": template.name,
        "displaytext": template.display_text,
        "ispublic": template.public,
        "created": timestamp(template.created),
        "isready": template.ready,
        "format": template.format,
        "isfeatured": template.featured,
        "crossZones": not template.zones,
        "ostypeid": template.os_id,
        "ostypename": template.os_name,
    }


def _tail(template: Template) -> Rendered:
    domain = template.account.domain
    return {
        "templatetype": template.type,
        "hypervisor": template.hypervisor,
        "domain": domain.name,
        "domainpath": domain.path,
        "domainid": domain.id,
        "bits": 0,
        "isdynamicallyscalable": template.dynamically_scalable,
        "tags": template.tags,
    }


def _rows(call: Call, template: Template) -> list[Rendered]:
    """One row a zone, kept on the template; with what only its owner sees."""
    if template.rendered is None:
        template.rendered = [_render(template, zone) for zone in template.zones or call.world.all(Zone)]
    rows: list[Rendered] = template.rendered
    more: Rendered = {"templatetag": template.tag} if template.tag else {}
    if template.status and call.may_use(template.account):
        more["status"] = template.status
        if template.url:
            more["url"] = template.url
    if template.jobs:
        more |= {"jobid": template.jobs[0].id, "jobstatus": 0}
    return [row | more for row in rows] if more else rows


def changed(template: Template) -> None:
    """Forget the rendered answer; for everybody who changes what it shows."""
    template.rendered = None


def _describe(template: Template) -> str:
    shown = {
        "format": template.format,
        "id": template.number,
        "name": template.name,
        "uniqueName": f"{template.number}-{template.account.number}-{template.id}",
        "uuid": template.id,
    }
    return "Template " + json.dumps(shown, separators=(",", ":"))


# Lists


def _passes(call: Call, template: Template, which: str, owners: set[Account]) -> bool:
    mine = template.account in owners
    if which == "featured":
        return template.featured and template.public
    if which == "community":
        return template.public and not template.featured
    if which == "self":
        return mine
    if which == "selfexecutable":
        return mine and template.ready
    if which in ("shared", "sharedexecutable"):
        return not mine and template.ready and bool(owners & set(template.shared_with))
    if which == "executable":
        return (mine or template.public or call.is_admin) and template.ready
    return which == "all"


def may_launch(call: Call, template: Template) -> bool:
    """Whether the caller may deploy from a template, its own, a public or a shared one."""
    return template.public or call.may_use(template.account) or call.account in template.shared_with


def _denied(call: Call, template: Template) -> ApiError:
    who = {"accountName": call.account.name, "id": call.account.number, "uuid": call.account.id}
    return errors.denied(
        f"Account Account [{json.dumps(who, separators=(',', ':'))}] does not have permission to launch instances from "
        f"template {_describe(template)}"
    )


@command("listTemplates")
def list_templates(call: Call) -> Listing:
    which = call.text("templatefilter")
    if which not in _FILTERS:
        raise ApiError(431, f"No enum constant com.cloud.template.VirtualMachineTemplate.TemplateFilter.{which}")
    if which == "all" and not call.is_admin:
        raise errors.invalid("Filter all can be specified by admin only")
    zone, owners = call.row(Zone, "zoneid"), call.owners()
    rows = selected(call, Template)
    if "id" in call.parameters:
        for row in rows:
            if not may_launch(call, row):
                raise _denied(call, row)
    rows = [row for row in tags.filter_rows(call, rows) if _passes(call, row, which, owners)]
    if hypervisor := call.text("hypervisor"):
        rows = [row for row in rows if row.hypervisor.lower() == hypervisor.lower()]
    unique = call.flag("showunique")
    items = []
    for row in rows:
        of_zones = _rows(call, row)
        if zone is not None:
            of_zones = [item for item in of_zones if item["zoneid"] == zone.id]
        items += of_zones[:1] if unique else of_zones
    return Listing(items)


# Create, register


def _os_name(call: Call) -> str:
    """The name of the OS type asked for; the cloud's templates may have some that no list shows."""
    wanted = call.text("ostypeid")
    name = os_type_name(wanted) or next(
        (row.os_name for row in call.world.all(Template) if row.os_id == wanted.lower()), None
    )
    if name is None:
        raise errors.no_such_entity(call.command, "ostypeid", wanted)
    return name


def _check_public(call: Call) -> None:
    if call.flag("ispublic") and not (call.is_admin or call.world.settings.public_templates):
        raise errors.denied("Only private templates can be created.")


def _new(call: Call, owner: Account, **values: Any) -> Template:
    """A row of what a user makes. A user's isfeatured is dropped without a word (recordings, Surprises 64)."""
    _check_public(call)
    check_limit(call, owner, "template", 1)
    return call.world.add(
        Template,
        name=call.text("name"),
        display_text=call.text("displaytext") or call.text("name"),
        account=owner,
        public=call.flag("ispublic"),
        featured=call.is_admin and call.flag("isfeatured"),
        ready=False,
        hypervisor=HYPERVISOR,
        os_name=_os_name(call) if "ostypeid" in call.parameters else "Other (64-bit)",
        os_id=call.text("ostypeid"),
        password_enabled=call.flag("passwordenabled"),
        dynamically_scalable=call.flag("isdynamicallyscalable"),
        requires_hvm=call.flag("requireshvm", True),
        arch=call.text("arch") or "x86_64",
        **values,
    )


@command("createTemplate")
def create_template(call: Call) -> dict[str, Any]:
    call.check_named_account()
    disk, snapshot = call.row(Volume, "volumeid"), call.row(Snapshot, "snapshotid")
    owner = call.owner()
    if disk is not None and snapshot is not None:
        raise errors.invalid(
            "Failed to create private Template record, please specify only one of volume ID "
            f"({disk.number}) and Snapshot ID ({snapshot.number})"
        )
    if snapshot is not None:
        call.check_access(snapshot.account)
        if snapshot.removed:
            raise errors.invalid(f"Unable to find snapshot by id={snapshot.number}")
        if snapshot.state != "BackedUp":
            raise errors.internal()
        # Its size is not known (recordings, e).
        return _create(call, owner, snapshot.zone, snapshot.size, snapshot.volume, shown_size=False)
    if disk is None:
        raise errors.invalid("Unable to find snapshot by id=null")
    call.check_access(disk.account)
    if disk.removed:
        raise removed("Volume", disk.number)
    if (disk.vm is not None and disk.vm.state != "Stopped") or disk.state != "Ready":
        # A runtime exception of CloudStack, whose text users do not see.
        raise errors.internal()
    return _create(call, owner, disk.zone, disk.size, disk, shown_size=True)


def _machine_details(disk: Volume) -> dict[str, str]:
    """Of the machine whose boot disk it is; a template made of that has them too, down to its keys (recordings, e)."""
    details = dict(disk.vm.details) if disk.vm is not None and disk.type == "ROOT" else {}
    if details and disk.template is not None and disk.size != disk.template.size:
        details["rootdisksize"] = str(disk.size >> 30)
    return details


def _create(call: Call, owner: Account, zone: Zone, size: int, disk: Volume, *, shown_size: bool) -> dict[str, Any]:
    """disk: the one it is made of, or that the snapshot is of."""
    given, details, source = call.details(), _machine_details(disk), disk.template
    if given:
        details.pop("Encrypted.Password", None)
    template = _new(
        call,
        owner,
        size=size,
        format="RAW",
        zones=[zone],
        source=source,
        status="Active",
        physical_size=0,
        shown_size=shown_size,
        extractable=source is not None and source.type != "BUILTIN" and source.extractable is not False,
        details=(dict(source.details) if source else {}) | details | given,
    )
    begun: list[Job] = []

    def work() -> None:
        # A submit that was refused after all leaves its row behind, of which nothing becomes.
        if begun and begun[0].status == 0:
            template.ready, template.status = True, _COMPLETE
            template.jobs.clear()
            changed(template)

    def created() -> dict[str, Any]:
        return {"template": _rows(call, template)[0]}

    call.world.at(WORK_DONE * call.duration(), work)
    answer = call.job(created, instance=("Template", template.id), create_id=template.id)
    job = call.world.find(Job, answer["jobid"])
    assert job is not None
    begun.append(job)
    template.jobs.append(job)
    return answer


@command("registerTemplate")
def register_template(call: Call) -> Listing:
    call.check_named_account()
    owner, given = call.owner(), [*call.items("zoneids"), call.text("zoneid")]
    wanted = [value for value in given if value]
    zones: list[Zone] = []
    for value in wanted if wanted != ["-1"] else ():
        zone = call.world.find(Zone, value)
        if zone is None:
            raise errors.no_such_entity(call.command, "zoneids", value)
        zones.append(zone)
    if not wanted:
        raise missing(call.command, "zoneids")
    form, url = call.text("format").upper(), call.text("url")
    _check_url(form, url)
    template = _new(
        call,
        owner,
        size=5 * _MIB,
        format=form,
        zones=zones,
        status="Processing",
        url=url,
        extractable=call.flag("isextractable"),
        details=call.details(),
    )
    if call.text("hypervisor"):
        template.hypervisor = call.text("hypervisor")

    def downloaded() -> None:
        fails = urlsplit(url).path.rpartition("/")[2].startswith("missing")
        template.ready, template.status = not fails, _FAILED if fails else _COMPLETE
        changed(template)

    if call.duration():
        call.world.at(call.duration(), downloaded)
    else:
        downloaded()
    return Listing(_rows(call, template))


def _check_url(form: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ftp", "metalink"):
        raise errors.invalid(f"Unsupported scheme for url: {url}")
    if (parts.hostname or "nowhere.").startswith("nowhere."):
        raise ApiError(431, f"Unable to resolve {parts.hostname}.")
    if form not in _ENDINGS:
        raise errors.invalid(f"Format {form} is not supported")
    if not any(parts.path.lower().endswith(ending + packed) for ending in _ENDINGS[form] for packed in _PACKED):
        raise ApiError(431, f"Please specify a valid {form.lower()}")


# Change, delete


def _own(call: Call) -> Template:
    """The template a command changes."""
    template = call.require(Template, "id")
    if template.removed:
        raise removed("VirtualMachineTemplate", template.number)
    if not call.may_use(template.account):
        if template.public:
            raise errors.denied("Domain Admin and regular users can modify only their own Public templates")
        raise _denied(call, template)
    return template


@command("updateTemplate")
def update_template(call: Call) -> dict[str, Any]:
    template = _own(call)
    if "ostypeid" in call.parameters:
        template.os_name, template.os_id = _os_name(call), call.text("ostypeid").lower()
    template.name = call.text("name") or template.name
    template.display_text = call.text("displaytext") or template.display_text
    template.format = call.text("format") or template.format
    template.arch = call.text("arch") or template.arch
    template.tag = call.text("templatetag", template.tag)
    template.password_enabled = call.flag("passwordenabled", template.password_enabled)
    template.dynamically_scalable = call.flag("isdynamicallyscalable", template.dynamically_scalable)
    if "requireshvm" in call.parameters:
        template.requires_hvm = call.flag("requireshvm")
    if call.flag("cleanupdetails"):
        template.details = {}
    elif details := call.details():
        template.details = details
    changed(template)
    # This answer never says that it is ready (recordings, Surprises 64).
    shown = _head(template) | {"isready": False, "bootable": True} | owner_fields(template.account) | _tail(template)
    return shown | ({"details": template.details} if template.details else {})


@command("deleteTemplate")
def delete_template(call: Call) -> dict[str, Any]:
    template = call.require(Template, "id")
    if template.removed:
        raise removed("VirtualMachineTemplate", template.number)

    def deleted() -> dict[str, Any]:
        if not call.may_use(template.account):
            raise errors.denied("Domain Admin and regular users can modify only their own Public templates")
        using = [vm for vm in call.world.all(VirtualMachine) if vm.template is template]
        if using and not call.flag("forced"):
            names = ", ".join(describe(vm) for vm in using)
            raise errors.invalid(
                f"Unable to delete template: {_describe(template)} because VM instances: [{names}] are using it."
            )
        template.removed = True
        return {"success": True}

    return call.job(deleted, instance=("Template", template.id))


# Sharing


@command("updateTemplatePermissions")
def update_template_permissions(call: Call) -> dict[str, Any]:
    template = _own(call)
    how, names = call.text("op"), call.items("accounts")
    if how not in ("", "add", "remove", "reset"):
        raise errors.invalid(
            "Invalid operation on Accounts, the operation must be either 'add' or 'remove' in order to modify launch "
            f"permissions.  Given operation is: '{how}'"
        )
    if how in ("add", "remove") and not names and "projectids" not in call.parameters:
        raise errors.invalid(f"Operation {how} requires Accounts or projectIds to be passed in")
    _check_public(call)
    accounts = [_account(call, template, name) for name in names]
    if how == "reset":
        template.public, template.featured, template.shared_with = False, False, []
    elif how == "add":
        template.shared_with += [one for one in accounts if one not in template.shared_with]
    elif how == "remove":
        template.shared_with = [one for one in template.shared_with if one not in accounts]
    template.public = call.flag("ispublic", template.public)
    if call.is_admin:
        template.featured = call.flag("isfeatured", template.featured)
    template.extractable = call.flag("isextractable", bool(template.extractable))
    changed(template)
    return {"success": True}


def _account(call: Call, template: Template, name: str) -> Account:
    domain = template.account.domain
    for account in call.world.all(Account):
        if account.domain is domain and account.project is None and account.name.lower() == name.lower():
            return account
    raise errors.invalid(
        f"Unable to grant a launch permission to Account {name} in domain id={domain.id}, Account not found.  No "
        "permissions updated, please verify the Account names and retry."
    )


@command("listTemplatePermissions")
def list_template_permissions(call: Call) -> dict[str, Any]:
    template = call.require(Template, "id")
    if not call.may_use(template.account):
        raise _denied(call, template)
    shown: dict[str, Any] = {"id": template.id, "ispublic": template.public}
    names = [account.name for account in template.shared_with if account is not template.account]
    if not template.public:
        names.append(template.account.name)
    return {"templatepermission": shown | ({"account": names} if names else {})}
