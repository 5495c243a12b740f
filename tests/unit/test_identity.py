"""The Identity service against a simulated cloud: sign-in, sessions, projects, and what a credential is limited to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import orjson
import pytest
import structlog
import time_machine

from gstack.auth.v1 import identity_pb2 as pb
from gstack.auth.v1 import identity_pb2_grpc
from gstack.compute.v1 import common_pb2, images_pb2, instances_pb2, operations_pb2, projects_pb2
from gstack.kernel.errors import ApiError, from_rpc
from gstack.kernel.rpc import Server, channel
from gstack.kernel.sealing import CREDENTIAL, IDENTITY
from simulator import errors
from simulator.app import Fault
from simulator.commands import HANDLERS, SPECS
from simulator.world import Account, Project, Template, User
from tests.conftest import LINK_BASE, Cloud, OpenScope
from tests.unit.made import ask, machine
from tests.waits import LONG, Clock
from translator_service import identity
from translator_service.cloudstack import client
from translator_service.cloudstack.catalog import Catalog
from translator_service.cloudstack.client import Endpoint
from translator_service.cloudstack.errors import CloudStackError, Unreachable, to_api_error
from translator_service.gce.naming import number
from translator_service.operations import engine
from translator_service.operations.run import handler
from translator_service.scope import Environment, Scope, caller_of, open_scope


def user(simulated: Cloud, name: str) -> User:
    return next(row for row in simulated.app.world.all(User) if row.name == name)


def account(simulated: Cloud, name: str) -> Account:
    return next(row for row in simulated.app.world.all(Account) if row.name == name)


def project(simulated: Cloud, name: str) -> Project:
    return next(row for row in simulated.app.world.all(Project) if row.name == name)


@pytest.fixture
def new_project(simulated: Cloud) -> Callable[..., Project]:
    """Make a CloudStack project: `new_project("shop", "demo")`."""

    def make(name: str, owner: str, *members: str) -> Project:
        world, first = simulated.app.world, account(simulated, owner)
        hidden = world.add(Account, name=f"PrjAcct-{name}", domain=first.domain)
        made = world.add(
            Project,
            name=name,
            display_text=name,
            account=hidden,
            owner=first,
            members=[account(simulated, member) for member in members],
        )
        hidden.project = made
        return made

    return make


@pytest.fixture
def sign_in(environment: Environment) -> Callable[..., pb.LoggedIn]:
    def make(username: str, password: str, *, register_keys: bool = False, domain: str = "") -> pb.LoggedIn:
        typed = {"username": username, "password": password, "domain": domain}
        sealed = environment.sealer.seal_message(typed, IDENTITY, 60)
        return identity.login(environment, pb.PasswordLogin(login=sealed, register_keys=register_keys))

    return make


SignIn = Callable[..., pb.LoggedIn]


def keys_of(environment: Environment, answer: pb.LoggedIn) -> dict[str, str]:
    found = environment.sealer.open_message(answer.credential, IDENTITY)
    return {name: found[name] for name in ("api_key", "secret_key")}


def refusal(work: Callable[..., Any], *arguments: Any, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        work(*arguments, **more)
    return raised.value


# Sign-in


@pytest.mark.parametrize("register", [False, True])
def test_a_person_gets_the_keys_that_exist(
    environment: Environment, simulated: Cloud, sign_in: SignIn, register: bool
) -> None:
    answer = sign_in("demo", "demo", register_keys=register)
    assert keys_of(environment, answer) == {"api_key": "demo-api-key", "secret_key": "demo-secret-key"}
    demo = user(simulated, "demo")
    assert (answer.account.user_id, answer.account.user_name) == (demo.id, "demo")
    assert (answer.account.account_id, answer.account.account_name) == (demo.account.id, "demo")
    assert simulated.calls == {"login": 1, "getUserKeys": 1, "logout": 1, "listUsers": 1}
    assert simulated.app.world.sessions == {}


def test_keys_are_made_only_when_it_was_agreed_to(environment: Environment, simulated: Cloud, sign_in: SignIn) -> None:
    error = refusal(sign_in, "nokeys", "nokeys")
    assert (error.code, error.reason) == (401, "noKeys")
    assert simulated.calls == {"login": 1, "getUserKeys": 1, "logout": 1}
    assert simulated.app.world.sessions == {}

    answer = sign_in("nokeys", "nokeys", register_keys=True)
    someone = user(simulated, "nokeys")
    assert someone.api_key
    assert keys_of(environment, answer) == {"api_key": someone.api_key, "secret_key": someone.secret_key}
    assert (answer.account.user_id, answer.account.account_name) == (someone.id, "demo")
    assert simulated.calls["registerUserKeys"] == 1 and simulated.calls["logout"] == 2
    assert simulated.app.world.sessions == {}

    assert keys_of(environment, sign_in("nokeys", "nokeys", register_keys=True)) == keys_of(environment, answer)
    assert simulated.calls["registerUserKeys"] == 1


@pytest.fixture
def keys_by_a_job(simulated: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """registerUserKeys as CloudStack 4.23 has it."""
    now = HANDLERS["registerUserKeys"]
    monkeypatch.setitem(SPECS, "registerUserKeys", {**SPECS["registerUserKeys"], "async": True})
    monkeypatch.setitem(HANDLERS, "registerUserKeys", lambda call: call.job(lambda: {"userkeys": now(call)}))


@pytest.mark.usefixtures("keys_by_a_job")
def test_keys_made_by_a_job_are_waited_for(environment: Environment, simulated: Cloud, sign_in: SignIn) -> None:
    answer = sign_in("nokeys", "nokeys", register_keys=True)
    assert keys_of(environment, answer)["api_key"] == user(simulated, "nokeys").api_key
    assert simulated.app.calls["queryAsyncJobResult"] >= 1
    assert simulated.app.world.sessions == {}


@pytest.mark.usefixtures("keys_by_a_job")
def test_a_job_that_never_ends_is_not_waited_for_beyond_the_deadline(
    simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(client, "time", clock)
    simulated.app.world.settings.job_seconds = {"": 3600.0}
    endpoint = Endpoint(simulated.url, connections=1)
    with pytest.raises(Unreachable):
        endpoint.login("nokeys", "nokeys", "", clock.now + 10, register_keys=True)
    assert simulated.calls["logout"] == 1 and simulated.app.world.sessions == {}
    endpoint.close()


@pytest.mark.usefixtures("keys_by_a_job")
def test_a_job_that_fails_is_an_error(simulated: Cloud, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, Any]:
        raise errors.internal()

    monkeypatch.setitem(HANDLERS, "registerUserKeys", lambda call: call.job(fail))
    with pytest.raises(CloudStackError) as raised:
        sign_in("nokeys", "nokeys", register_keys=True)
    assert to_api_error(raised.value).code == 500
    assert simulated.app.world.sessions == {}


def test_one_key_alone_keeps_others_from_being_made(simulated: Cloud, sign_in: SignIn) -> None:
    user(simulated, "nokeys").api_key = "half-a-pair"
    assert refusal(sign_in, "nokeys", "nokeys", register_keys=True).reason == "noKeys"
    assert "registerUserKeys" not in simulated.calls


def test_a_second_factor_is_asked_for_before_anything_else(simulated: Cloud, sign_in: SignIn) -> None:
    error = refusal(sign_in, "twofactor", "twofactor", register_keys=True)
    assert (error.code, error.reason) == (401, "secondFactor")
    assert simulated.calls == {"login": 1, "logout": 1}
    assert simulated.app.world.sessions == {}


def test_a_second_factor_that_login_did_not_tell_of(simulated: Cloud, sign_in: SignIn) -> None:
    simulated.app.faults.append(Fault("status", "getUserKeys", 511, "2FA verification is not done"))
    assert refusal(sign_in, "demo", "demo").reason == "secondFactor"
    assert simulated.calls["logout"] == 1 and simulated.app.world.sessions == {}


@pytest.mark.parametrize(
    ("username", "password", "domain"),
    [
        ("demo", "wrong", ""),
        ("nobody", "demo", ""),
        ("twofactor", "wrong", ""),
        ("nokeys", "wrong", ""),
        ("demo", "demo", "nowhere"),
        ("", "demo", ""),
        ("demo", "", ""),
    ],
)
def test_whatever_is_wrong_is_refused_in_the_same_words(
    simulated: Cloud, sign_in: SignIn, username: str, password: str, domain: str
) -> None:
    error = refusal(sign_in, username, password, domain=domain)
    assert (error.code, error.reason, error.message) == (401, "authError", "Invalid Credentials")
    assert simulated.calls == {"login": 1}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "getUserKeys", 530),
        Fault("status", "getUserKeys", 432),
        Fault("html", "getUserKeys", 502),
        Fault("truncated", "getUserKeys"),
        Fault("drop", "getUserKeys"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status}",
)
def test_the_session_ends_when_the_keys_are_not_told_and_none_are_made(
    simulated: Cloud, sign_in: SignIn, fault: Fault
) -> None:
    simulated.app.faults.append(fault)
    with pytest.raises((ApiError, CloudStackError, Unreachable)):
        sign_in("nokeys", "nokeys", register_keys=True)
    assert simulated.calls == {"login": 1, "getUserKeys": 1, "logout": 1}
    assert simulated.app.world.sessions == {}


def test_an_answer_that_is_not_about_keys_makes_none(
    simulated: Cloud, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HANDLERS, "getUserKeys", lambda call: {"success": True})
    with pytest.raises(Unreachable):
        sign_in("nokeys", "nokeys", register_keys=True)
    assert simulated.calls == {"login": 1, "getUserKeys": 1, "logout": 1}


def test_a_logout_that_fails_does_not_take_the_keys_away(
    environment: Environment, simulated: Cloud, sign_in: SignIn
) -> None:
    simulated.app.faults.append(Fault("drop", "logout"))
    assert keys_of(environment, sign_in("demo", "demo"))["api_key"] == "demo-api-key"


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """All that is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.mark.parametrize("command", ["login", "getUserKeys", "registerUserKeys", "logout", "listUsers"])
@pytest.mark.parametrize("kind", ["status", "html", "truncated", "drop"])
def test_b2_no_secret_reaches_an_error_or_a_log(
    simulated: Cloud, sign_in: SignIn, logged: list[Any], command: str, kind: str
) -> None:
    someone = user(simulated, "nokeys")
    someone.password = "canary-password"
    simulated.app.faults.append(Fault(kind, command, count=2))
    told = ""
    try:
        sign_in("nokeys", "canary-password", register_keys=True)
    except (ApiError, CloudStackError, Unreachable) as error:
        shown = error if isinstance(error, ApiError) else to_api_error(error)
        told = f"{error!r} {error} {shown} {error.__cause__!r}"
        assert command != "logout"
    told += repr(logged)
    for secret in ("canary-password", someone.api_key, someone.secret_key):
        assert not secret or secret not in told
    # An answer to login that cannot be read has no session key to log out with.
    if command != "login" and kind != "drop":
        assert simulated.calls["logout"] >= 1


def test_keys_are_verified(environment: Environment, simulated: Cloud) -> None:
    def verify(api_key: str, secret_key: str) -> pb.Account:
        keys = {"api_key": api_key, "secret_key": secret_key}
        request = pb.VerifyRequest(credential=environment.sealer.seal_message(keys, IDENTITY, 60))
        return identity.verify(environment, request)

    assert verify("ian-api-key", "ian-secret-key").account_name == "ian@example.org"
    assert verify("admin-api-key", "admin-secret-key").user_name == "admin"
    # The second factor is for sessions.
    assert verify("twofactor-api-key", "twofactor-secret-key").user_name == "twofactor"
    words = {str(refusal(verify, *pair)) for pair in (("ian-api-key", "x"), ("x", "ian-secret-key"), ("", ""))}
    assert words == {"401 authError: Invalid Credentials"}


# Projects


@pytest.fixture
def credential(environment: Environment, simulated: Cloud) -> Callable[..., bytes]:
    """A principal's credential: `credential("demo", projects=[...])`."""

    def make(name: str = "demo", projects: list[str] | None = None) -> bytes:
        person = user(simulated, name)
        found: dict[str, Any] = {
            "api_key": person.api_key,
            "secret_key": person.secret_key,
            "account_id": person.account.id,
            "account_name": person.account.name,
            "subject": person.email,
            "key": f"{person.account.id}/{person.id}",
        }
        if projects is not None:
            found["projects"] = projects
        sealed: bytes = environment.sealer.seal_message(found, CREDENTIAL, 600)
        return sealed

    return make


MakeCredential = Callable[..., bytes]


def listed(environment: Environment, credential: bytes) -> list[pb.Project]:
    return list(identity.projects(environment, pb.ProjectsRequest(credential=credential)).projects)


def found_project(environment: Environment, credential: bytes, name: str) -> pb.Project:
    return identity.find_project(environment, pb.ProjectRequest(credential=credential, name=name))


def test_the_account_comes_first_then_its_projects_by_name(
    environment: Environment, simulated: Cloud, credential: MakeCredential, new_project: Callable[..., Project]
) -> None:
    early, late = new_project("A First", "demo"), new_project("zoo", "ian@example.org", "demo")
    new_project("hidden", "ian@example.org")
    demo, shop = account(simulated, "demo"), project(simulated, "webshop")
    assert [(one.key, one.name, one.display_name, one.number) for one in listed(environment, credential())] == [
        (demo.id, "demo", "demo", number(demo.id)),
        (early.id, "a-first", "A First", number(early.id)),
        (shop.id, "webshop", "webshop", number(shop.id)),
        (late.id, "zoo", "zoo", number(late.id)),
    ]


def test_names_follow_the_naming(
    environment: Environment, credential: MakeCredential, new_project: Callable[..., Project]
) -> None:
    """Ids do not: not every client takes every name."""
    made = new_project("Web Shop", "ian@example.org")

    def told() -> list[tuple[str, str]]:
        environment.catalog = Catalog()
        return [(one.name, one.id) for one in listed(environment, credential("ian"))]

    assert told() == [("ian-example-org", "ian-example-org"), ("web-shop", "web-shop")]
    environment.settings.naming = "verbatim"
    assert told() == [("ian@example.org", "ian-example-org"), ("Web Shop", made.id)]


def test_it_is_told_when_a_project_was_made(
    environment: Environment, simulated: Cloud, credential: MakeCredential
) -> None:
    """CloudStack is asked about the account when that is wanted, and once."""
    assert [bool(one.created) for one in listed(environment, credential())] == [False, True]
    assert "listAccounts" not in simulated.calls
    asked = pb.ProjectsRequest(credential=credential(), with_created=True)
    first, second = identity.projects(environment, asked).projects
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000[+-]\d\d:\d\d", first.created) and second.created
    request = pb.ProjectRequest(credential=credential(), name="demo", with_created=True)
    assert identity.find_project(environment, request) == first
    assert simulated.calls["listAccounts"] == 1


def test_a_project_is_found_by_each_of_its_names(
    environment: Environment, simulated: Cloud, credential: MakeCredential
) -> None:
    sealed = credential()
    for one in listed(environment, sealed):
        for name in (one.name, one.display_name, one.key, str(one.number), one.id):
            assert found_project(environment, sealed, name) == one
    ian = account(simulated, "ian@example.org")
    for name in ("nothing", ian.name, "ian-example-org", ian.id, str(number(ian.id))):
        error = refusal(found_project, environment, sealed, name)
        assert (error.code, error.message) == (404, f"The resource 'projects/{name}' was not found")


def test_a_project_that_is_called_as_the_account_is_goes_by_its_uuid(
    environment: Environment, credential: MakeCredential, new_project: Callable[..., Project]
) -> None:
    made = new_project("Demo", "demo")
    names = {one.key: one.name for one in listed(environment, credential())}
    assert names[made.id] == made.id
    assert found_project(environment, credential(), made.id).key == made.id
    assert found_project(environment, credential(), "demo").key != made.id


def test_answers_and_refusals_cross_the_wire(environment: Environment, credential: MakeCredential) -> None:
    server = Server(2)
    identity.add_service(server, environment)
    port = server.start("127.0.0.1:0")
    typed = {"username": "nokeys", "password": "nokeys"}
    try:
        with channel(f"127.0.0.1:{port}", "translator", None) as wire:
            stub = identity_pb2_grpc.IdentityStub(wire)  # type: ignore[no-untyped-call]
            assert stub.Projects(pb.ProjectsRequest(credential=credential()), timeout=LONG).projects[0].name == "demo"
            assert (
                stub.FindProject(pb.ProjectRequest(credential=credential(), name="webshop"), timeout=LONG).name
                == "webshop"
            )
            told = []
            for call, request in (
                (stub.FindProject, pb.ProjectRequest(credential=credential("ian"), name="webshop")),
                (stub.Login, pb.PasswordLogin(login=environment.sealer.seal_message(typed, IDENTITY, 60))),
                (stub.Verify, pb.VerifyRequest(credential=b"x")),
            ):
                with pytest.raises(grpc.RpcError) as raised:
                    call(request, timeout=LONG)
                error = from_rpc(raised.value)
                told.append((error.code, error.reason))
    finally:
        server.stop(0)
    assert told == [(404, "notFound"), (401, "noKeys"), (401, "authError")]


def test_a_credential_that_is_not_ours_is_refused(environment: Environment) -> None:
    assert refusal(listed, environment, b"x").code == 401
    assert refusal(found_project, environment, b"x", "demo").code == 401


def test_what_auth_sealed_has_an_end(environment: Environment, simulated: Cloud) -> None:
    """A stolen question, which holds a password or keys, is of no use later."""
    keys = {"api_key": "demo-api-key", "secret_key": "demo-secret-key"}
    typed = {"username": "demo", "password": "demo", "domain": ""}
    with time_machine.travel(time.time(), tick=False) as clock:
        asked = pb.VerifyRequest(credential=environment.sealer.seal_message(keys, IDENTITY, 60))
        login = pb.PasswordLogin(login=environment.sealer.seal_message(typed, IDENTITY, 60))
        assert identity.verify(environment, asked).user_name == "demo"
        clock.shift(60)
        simulated.app.calls.clear()
        assert refusal(identity.verify, environment, asked).code == 401
        assert refusal(identity.login, environment, login).code == 401
        endless = pb.VerifyRequest(credential=environment.sealer.seal(orjson.dumps(keys), IDENTITY))
        assert refusal(identity.verify, environment, endless).code == 401
        assert not simulated.calls


# Credentials with a limit


@pytest.fixture
def limited(environment: Environment, credential: MakeCredential) -> Callable[..., Scope]:
    """A scope of demo's, limited to projects by key: `limited("webshop", [key])`."""

    def make(name: str, projects: list[str], **options: Any) -> Scope:
        return open_scope(environment, credential("demo", projects), name, LINK_BASE, **options)

    return make


Limited = Callable[..., Scope]


def test_a_limit_hides_all_other_projects(
    environment: Environment, simulated: Cloud, credential: MakeCredential, limited: Limited
) -> None:
    demo, shop = account(simulated, "demo"), project(simulated, "webshop")
    for allowed, name, others in (
        (shop.id, "webshop", ("demo", demo.id, str(number(demo.id)))),
        (demo.id, "demo", ("webshop", shop.id, str(number(shop.id)))),
    ):
        assert limited(name, [allowed]).project.key == allowed
        assert [one.key for one in listed(environment, credential("demo", [allowed]))] == [allowed]
        for other in others:
            for error in (
                refusal(limited, other, [allowed]),
                refusal(found_project, environment, credential("demo", [allowed]), other),
            ):
                assert (error.code, error.message) == (404, f"The resource 'projects/{other}' was not found")
    assert limited("demo", [demo.id, shop.id]).project.key == demo.id
    assert listed(environment, credential("demo", [])) == []
    assert refusal(limited, "demo", []).code == 404


def test_a_limit_holds_after_others_have_filled_the_caches(
    environment: Environment, simulated: Cloud, scope_for: OpenScope, credential: MakeCredential, limited: Limited
) -> None:
    request = common_pb2.ListRequest(project="demo")
    free = open_scope(environment, credential(), "demo", LINK_BASE)
    private(simulated, "Debian secret", "demo")
    assert "debian-secret" in [image.name for image in ask(free, "Images.List", request).items]
    shop = project(simulated, "webshop").id
    assert refusal(limited, "demo", [shop]).code == 404
    inside = limited("webshop", [shop])
    # The very same question: the caches must tell by the project, not by the text of the request.
    assert "debian-secret" not in [image.name for image in ask(inside, "Images.List", request).items]


def private(simulated: Cloud, name: str, owner: str) -> Template:
    template: Template = simulated.app.world.add(
        Template, name=name, display_text=name, size=1 << 30, account=account(simulated, owner), public=False
    )
    return template


def test_a_limit_holds_in_public_image_projects(
    environment: Environment, simulated: Cloud, credential: MakeCredential, limited: Limited
) -> None:
    """They show what the operator offers, and never a private template, be it the account's or the project's."""
    private(simulated, "Debian secret", "demo")
    demo, shop = account(simulated, "demo").id, project(simulated, "webshop").id
    public = {"public_projects": True}
    secret = images_pb2.GetImageRequest(project="debian-cloud", image="debian-secret")
    common = images_pb2.GetImageRequest(project="debian-cloud", image="linux-debian-12-64-bit")
    family = images_pb2.GetFromFamilyImageRequest(project="debian-cloud", family="debian-secret")

    def may(scope: Scope, method: str, request: Any) -> bool:
        try:
            return bool(ask(scope, method, request).name)
        except ApiError as error:
            assert error.code == 404
            return False

    for limit, sees in (([demo], True), ([demo, shop], True), ([shop], False)):
        scope = limited("debian-cloud", limit, **public)
        assert scope.project.key == (demo if sees else shop)
        assert may(scope, "Images.Get", common)
        assert not may(scope, "Images.Get", secret)
        assert not may(scope, "Images.GetFromFamily", family)
    gone = "00000000-0000-4000-8000-000000000000"
    assert refusal(limited, "debian-cloud", [gone], **public).code == 404
    assert refusal(limited, "debian-cloud", [], **public).code == 404
    assert limited("debian-cloud", [gone, shop], **public).project.key == shop


def test_later_steps_of_an_operation_are_limited_too(
    environment: Environment, simulated: Cloud, limited: Limited, operations: Callable[..., Any]
) -> None:
    shop = project(simulated, "webshop").id
    scope = limited("webshop", [shop])
    seen: list[frozenset[str] | None] = []
    handler("tests.limit")(lambda run: seen.append(run.scope.caller.projects))
    operations(scope, engine.submit(scope, type="t", target="global/x/y", handler="tests.limit", payload={}))
    assert seen == [frozenset([shop])]


# Membership


def test_a_project_is_found_as_soon_as_one_has_joined_it(
    simulated: Cloud, environment: Environment, credential: MakeCredential, new_project: Callable[..., Project]
) -> None:
    sealed = credential("ian")
    shop = project(simulated, "webshop")
    assert refusal(open_scope, environment, sealed, "webshop", LINK_BASE).code == 404
    shop.members.append(account(simulated, "ian@example.org"))
    age(environment, sealed, 2.0)
    scope = open_scope(environment, sealed, "webshop", LINK_BASE)
    assert ask(scope, "Projects.Get", projects_pb2.GetProjectRequest(project="webshop")).name == "webshop"
    assert [one.name for one in listed(environment, sealed)] == ["ian-example-org", "webshop"]


def test_one_who_was_removed_is_refused_at_once_and_forgotten_within_a_minute(
    simulated: Cloud, environment: Environment, credential: MakeCredential
) -> None:
    sealed = credential("ian")
    shop, ian = project(simulated, "webshop"), account(simulated, "ian@example.org")
    shop.members.append(ian)
    scope = open_scope(environment, sealed, "webshop", LINK_BASE)
    request = common_pb2.ListInZoneRequest(project="webshop", zone="ch-gv2")
    assert len(ask(scope, "Instances.List", request).items) == 0

    shop.members.remove(ian)
    with pytest.raises(CloudStackError) as raised:
        ask(open_scope(environment, sealed, "webshop", LINK_BASE), "Instances.List", request)
    error = to_api_error(raised.value)
    assert (error.code, error.reason) == (403, "forbidden")
    age(environment, sealed, 61.0)
    assert refusal(open_scope, environment, sealed, "webshop", LINK_BASE).code == 404


def age(environment: Environment, sealed: bytes, seconds: float) -> None:
    """Make the caller's cached list of projects older."""
    key = caller_of(environment, sealed).key
    environment.catalog._entries[key, "projects"].fetched -= seconds


def test_operations_of_another_project_are_not_found_by_their_names(
    simulated: Cloud, scope_for: OpenScope, environment: Environment, credential: MakeCredential
) -> None:
    own = open_scope(environment, credential(), "demo", LINK_BASE)
    made = engine.finished(own, type="t", target="global/x/y")
    shop = open_scope(environment, credential(), "webshop", LINK_BASE)
    other = open_scope(environment, credential("ian"), "ian-example-org", LINK_BASE)
    request = operations_pb2.GetGlobalOperationRequest(project="demo", operation=made.name)
    assert ask(own, "GlobalOperations.Get", request).name == made.name
    for scope in (shop, other):
        assert refusal(ask, scope, "GlobalOperations.Get", request).code == 404


def test_private_images_are_their_owners(
    simulated: Cloud, environment: Environment, credential: MakeCredential
) -> None:
    secret = private(simulated, "Debian secret", "demo")
    own = open_scope(environment, credential(), "demo", LINK_BASE)
    for name in ("debian-secret", "Debian secret", secret.id, str(number(secret.id))):
        assert ask(own, "Images.Get", images_pb2.GetImageRequest(project="demo", image=name)).name == "debian-secret"
        for person, asked in (("demo", "webshop"), ("ian", "ian-example-org"), ("ian", "debian-cloud")):
            scope = open_scope(environment, credential(person), asked, LINK_BASE, public_projects=True)
            request = images_pb2.GetImageRequest(project=asked, image=name)
            assert refusal(ask, scope, "Images.Get", request).code == 404


def test_machines_of_the_account_are_not_the_projects(scope_for: OpenScope) -> None:
    web = machine(scope_for(), "web", "ch-gv2")
    for name in ("web", web["id"], str(number(web["id"]))):
        request = instances_pb2.GetInstanceRequest(project="webshop", zone="ch-gv2", instance=name)
        assert refusal(ask, scope_for("webshop"), "Instances.Get", request).code == 404
