"""The pages for people: front page, login, consent, device, keys. HTML and one style sheet, and no script but that of
the front page, which copies what is shown there.

What is typed goes to the auth service as it is and is neither kept nor logged here. A person is known by a session
cookie; every form carries the value of a second cookie, which no other site can read or set.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import flask
import grpc
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Response as FlaskResponse

from gateway.api import Request
from gateway.oauth import Issuer, check_form, message_of
from gateway.snippets import key_snippets, snippets
from gstack import __version__
from gstack.auth.v1 import auth_pb2, pages_pb2, pages_pb2_grpc
from gstack.kernel.errors import ApiError, from_rpc

_TIMEOUT = 30.0
# The front page must not wait for auth longer than people do.
_FRONT_PAGE_TIMEOUT = 3.0
_AUTHORIZE = ("/oauth2/auth", "/o/oauth2/auth", "/o/oauth2/v2/auth")
_DEVICE = ("/device", "/o/oauth2/device")
# The longest forms carry an authorization request on, and name projects of a key.
MAX_PAGE_FORM = 64 * 1024
_MAX_FIELDS = 200
# Where a login or a logout may lead.
_OWN_PAGES = frozenset(("/", "/keys", *_AUTHORIZE, *_DEVICE))
# Blanks and control characters would end the header `Location` or be dropped by browsers.
_VISIBLE = re.compile(r"[!-~]+")
_HEADERS = {
    "Cache-Control": "no-store",
    "Pragma": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NO_KEYS = "Your user has no API keys yet. Tick the box to have some made, and type your password again."
_DAYS = {"0": "never", "30": "in 30 days", "90": "in 90 days", "365": "in 365 days"}


@dataclass(frozen=True)
class _Meaning:
    """What a scope lets a program do, in plain words, and the scopes that say nothing more beside it."""

    text: str
    covers: frozenset[str] = frozenset()


_THINGS = "machines, disks, networks and firewall rules"
_WHO = _Meaning("See your name and e-mail address")
_MEANINGS = {
    "cloud-platform": _Meaning(
        f"See, create, change and delete your {_THINGS}, and your service accounts with their keys",
        frozenset(("compute", "compute.readonly", "cloud-platform.read-only", "iam")),
    ),
    "compute": _Meaning(f"See, create, change and delete your {_THINGS}", frozenset(("compute.readonly",))),
    "iam": _Meaning("See, create, change and delete your service accounts with their keys"),
    "cloud-platform.read-only": _Meaning(
        f"See your {_THINGS}, and your service accounts, but change nothing", frozenset(("compute.readonly",))
    ),
    "compute.readonly": _Meaning(f"See your {_THINGS}, but change nothing"),
    "openid": _WHO,
    "email": _WHO,
    "profile": _WHO,
    "userinfo.email": _WHO,
    "userinfo.profile": _WHO,
}
_PREFIX = "https://www.googleapis.com/auth/"


def permissions(scopes: Iterable[str]) -> tuple[list[str], list[str]]:
    """Scopes as (sentences, scopes that have no effect here)."""
    asked = {scope.removeprefix(_PREFIX): scope for scope in scopes}
    covered = {name for scope in asked if scope in _MEANINGS for name in _MEANINGS[scope].covers}
    sentences = {meaning.text: None for name, meaning in _MEANINGS.items() if name in asked and name not in covered}
    return list(sentences), [scope for name, scope in asked.items() if name not in _MEANINGS]


def own_page(target: str) -> str:
    """`target` when it is the path of a page of ours, with or without a query; `/keys` for anything else."""
    return target if _VISIBLE.fullmatch(target) and target.partition("?")[0] in _OWN_PAGES else "/keys"


def form_source(origin: str) -> str:
    """An origin as a source of a content security policy, "" for none. Policies know no IPv6 hosts: the scheme then."""
    if not origin or not _VISIBLE.fullmatch(origin) or set(origin) & set(";,'"):
        return ""
    return origin.partition("//")[0] if "[" in origin else origin


def when(seconds: int) -> str:
    """Seconds since the epoch as `2026-11-23 14:05` in UTC; 0 is never."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else "never"


def shown_code(user_code: str) -> str:
    """A device's code as the device shows it, `XXXX-XXXX`, however it was typed."""
    plain = re.sub(r"[^A-Z0-9]", "", user_code.upper())
    return f"{plain[:4]}-{plain[4:]}"


def add_pages(
    app: flask.Flask,
    auth: grpc.Channel,
    *,
    base: Callable[[], str],
    issuer: Issuer,
    health: Callable[[], dict[str, bool]],
    incoming: Callable[[], Request],
) -> None:
    """Adds the routes of the pages.

    base: scheme and host of the endpoint as clients know it. health: which services serve. incoming: the request.
    """
    app.add_template_filter(when)
    app.add_template_filter(permissions)
    pages = _Pages(auth, base, issuer, health, incoming)

    def add(verb: str, paths: Sequence[str], view: Callable[[], FlaskResponse]) -> None:
        guarded = pages.guarded(view)
        for path in paths:
            app.add_url_rule(path, f"{verb} {path}", guarded, methods=[verb])

    add("GET", ("/",), pages.front)
    add("GET", _AUTHORIZE, pages.authorize)
    add("GET", ("/login",), pages.login)
    add("POST", ("/login",), pages.sign_in)
    add("POST", ("/logout",), pages.sign_out)
    add("POST", ("/oauth2/consent",), pages.decide)
    add("GET", _DEVICE, pages.device)
    add("POST", _DEVICE, pages.find_device)
    add("GET", ("/keys",), pages.keys)
    add("POST", ("/keys",), pages.create_key)
    add("POST", ("/keys/delete",), pages.delete_key)
    add("POST", ("/grants/delete",), pages.delete_grant)


class _Pages:
    """The views. Each answers the current request of Flask; ApiErrors become pages in `guarded`."""

    def __init__(
        self,
        channel: grpc.Channel,
        base: Callable[[], str],
        issuer: Issuer,
        health: Callable[[], dict[str, bool]],
        incoming: Callable[[], Request],
    ):
        self._stub: Any = pages_pb2_grpc.PagesStub(channel)  # type: ignore[no-untyped-call]
        self._base = base
        self._issuer = issuer
        self._health = health
        self._incoming = incoming

    def guarded(self, view: Callable[[], FlaskResponse]) -> Callable[[], FlaskResponse]:
        """The view with the check of its form's origin before it and pages for its errors."""

        def call() -> FlaskResponse:
            try:
                if check_form(flask.request, MAX_PAGE_FORM).count(b"&") >= _MAX_FIELDS:
                    return self._message(400, "This form is too long", f"It has more than {_MAX_FIELDS} fields.")
                if flask.request.method == "POST" and not self._is_own_form():
                    return self._message(
                        403, "This form is too old", "Nothing was done. Go back, load the page again and repeat it."
                    )
                return view()
            except RequestEntityTooLarge:
                return self._message(413, "This form is too long", f"It has more than {MAX_PAGE_FORM} bytes.")
            except ApiError as error:
                return self._error(error)

        return call

    # Front page

    def front(self) -> FlaskResponse:
        state = self._health()
        person = None
        if self._session() and state.get("auth"):
            try:
                person = self._ask("WhoAmI", self._session_request(), _FRONT_PAGE_TIMEOUT)
            except ApiError:
                # The page is also there to show that something does not work.
                person = None
        project = flask.request.args.get("project", "")
        return self._page(
            "index.html",
            health=state,
            snippets=snippets(self._base(), project),
            person=person,
            without_url=self._issuer.is_missing,
            scripted=True,
        )

    # Login and logout

    def login(self) -> FlaskResponse:
        return self._login_page(own_page(flask.request.args.get("next", "")))

    def sign_in(self) -> FlaskResponse:
        form = flask.request.form
        target = own_page(form.get("next", ""))
        request = pages_pb2.SignInRequest(
            username=form.get("username", ""),
            password=form.get("password", ""),
            domain=form.get("domain", ""),
            api_key=form.get("api_key", ""),
            secret_key=form.get("secret_key", ""),
            register_keys="register_keys" in form,
            remote_address=self._address(),
            device=flask.request.cookies.get(self._cookie("device"), ""),
        )
        found = self._ask("SignIn", request)
        if not found.session:
            failure = _NO_KEYS if found.needs_keys else found.failure
            return self._login_page(target, failure, found.needs_keys, form.get("client", ""))
        answer = self._redirect(target)
        for name, value, seconds, same_site in (
            ("session", found.session, found.seconds, "Lax"),
            # It only comes back with the form of the login, and stays after a sign-out.
            ("device", found.device, found.device_seconds, "Strict"),
        ):
            answer.set_cookie(
                self._cookie(name),
                value,
                max_age=seconds,
                path="/",
                httponly=True,
                samesite=same_site,
                secure=self._is_secure(),
            )
        return answer

    def sign_out(self) -> FlaskResponse:
        if self._session():
            self._ask(
                "SignOut",
                pages_pb2.SignOutRequest(
                    session=self._session(),
                    remote_address=self._address(),
                    everywhere="everywhere" in flask.request.form,
                ),
            )
        answer = self._redirect(own_page(flask.request.form.get("next", "")))
        answer.delete_cookie(self._cookie("session"), path="/", httponly=True, samesite="Lax", secure=self._is_secure())
        return answer

    # Consent

    def authorize(self) -> FlaskResponse:
        request = self._incoming()
        found = self._ask(
            "Authorize", pages_pb2.AuthorizeRequest(request=message_of(request, self._issuer), session=self._session())
        )
        here = f"{request.path}?{request.query}"
        if found.HasField("response"):
            if "Location" in found.response.headers:
                return self._redirect(found.response.headers["Location"])
            text = f"What your program asked for is not valid: {_reason(found.response)}"
            return self._message(found.response.status, "This request cannot be answered", text)
        if found.HasField("consent"):
            return self._consent_page(found.consent, here)
        return self._login_page(own_page(here), client=found.client_name)

    def decide(self) -> FlaskResponse:
        form = flask.request.form
        decision = form.get("decision", "")
        if decision not in ("allow", "deny"):
            raise ApiError(400, "The answer must be allow or deny.")
        found = self._ask(
            "Decide",
            pages_pb2.DecideRequest(
                session=self._session(),
                ticket=form.get("ticket", ""),
                allow=decision == "allow",
                remote_address=self._address(),
            ),
        )
        if found.redirect_uri:
            return self._redirect(found.redirect_uri)
        if found.code:
            return self._page("code.html", code=found.code)
        if found.done:
            return self._message(200, "Done" if decision == "allow" else "Denied", found.done)
        return self._message(400, "This did not work", found.failure)

    # Device

    def device(self) -> FlaskResponse:
        if not self._session():
            raise ApiError(401, "Nobody is signed in.")
        return self._device_page(flask.request.args.get("user_code", ""))

    def find_device(self) -> FlaskResponse:
        typed = flask.request.form.get("user_code", "")
        found = self._ask(
            "FindDevice",
            pages_pb2.FindDeviceRequest(session=self._session(), user_code=typed, remote_address=self._address()),
        )
        if not found.HasField("consent"):
            return self._device_page(typed, found.failure)
        code = shown_code(typed)
        return self._consent_page(found.consent, f"/device?{urlencode({'user_code': code})}", code)

    # Keys and access

    def keys(self) -> FlaskResponse:
        return self._keys_page()

    def create_key(self) -> FlaskResponse:
        form = flask.request.form
        days = form.get("days", "")
        if days not in _DAYS:
            raise ApiError(400, "A key ends after 30, 90 or 365 days, or never.")
        request = pages_pb2.CreateKeyRequest(
            session=self._session(),
            account_id=form.get("account_id", ""),
            projects=form.getlist("project"),
            read_only="read_only" in form,
            days=int(days),
            remote_address=self._address(),
            base=self._base(),
        )
        try:
            found = self._ask("CreateKey", request)
        except ApiError as error:
            # Too many keys is not a matter of waiting, and the page shows which ones could go.
            if error.reason == "quotaExceeded":
                return self._keys_page(error.message)
            raise
        if not found.file:
            return self._keys_page(found.failure)
        # As Google names them: enough of the id to be told from others.
        name = f"{found.service_account.partition('@')[0]}-{found.id[:12]}.json"
        project = next(iter(form.getlist("project")), "")
        return self._page(
            "key.html",
            name=name,
            href=f"data:application/json;base64,{base64.b64encode(found.file.encode()).decode()}",
            service_account=found.service_account,
            snippets=key_snippets(self._base(), project, name),
        )

    def delete_key(self) -> FlaskResponse:
        return self._delete("DeleteKey")

    def delete_grant(self) -> FlaskResponse:
        return self._delete("DeleteGrant")

    def _delete(self, method: str) -> FlaskResponse:
        self._ask(
            method,
            pages_pb2.DeleteRequest(
                session=self._session(), id=flask.request.form.get("id", ""), remote_address=self._address()
            ),
        )
        return self._redirect("/keys")

    # Pages that are the answer to more than one request

    def _login_page(self, target: str, failure: str = "", needs_keys: bool = False, client: str = "") -> FlaskResponse:
        return self._page(
            "login.html",
            401 if failure else 200,
            next=target,
            client=client,
            failure=failure,
            needs_keys=needs_keys,
            typed=flask.request.form,
        )

    def _consent_page(self, consent: pages_pb2.Consent, here: str, user_code: str = "") -> FlaskResponse:
        return self._page(
            "consent.html", form_to=form_source(consent.redirect_origin), consent=consent, here=here, code=user_code
        )

    def _device_page(self, typed: str, failure: str = "") -> FlaskResponse:
        return self._page("device.html", 400 if failure else 200, typed=typed, failure=failure)

    def _keys_page(self, failure: str = "") -> FlaskResponse:
        overview = self._ask("Overview", self._session_request())
        project = overview.projects[0].name if overview.projects else ""
        return self._page(
            "keys.html",
            400 if failure else 200,
            overview=overview,
            person=overview.person,
            failure=failure,
            typed=flask.request.form,
            # What was ticked is kept; a fresh form begins with the account itself.
            ticked=flask.request.form.getlist("project") if failure else [project],
            days=_DAYS,
            key_snippets=key_snippets(self._base(), project),
            snippets=snippets(self._base(), project),
        )

    def _message(self, status: int, title: str, text: str) -> FlaskResponse:
        return self._page("message.html", status, title=title, text=text)

    def _error(self, error: ApiError) -> FlaskResponse:
        path = flask.request.path
        if error.code == 401 and path == "/oauth2/consent":
            # The question was bound to the session; nobody can be led back to it.
            return self._message(
                401, "You are no longer signed in", "Nothing was allowed. Go back to your program and begin again."
            )
        if error.code == 401:
            target = path
            if flask.request.method == "GET" and flask.request.query_string:
                target += "?" + flask.request.query_string.decode("latin-1")
            return self._redirect(f"/login?{urlencode({'next': own_page(target)})}")
        if error.code == 429:
            answer = self._message(429, "Too many attempts", f"Wait {_span(error.retry_after)}, then try again.")
            answer.headers["Retry-After"] = str(max(error.retry_after, 1))
            return answer
        if error.code in (503, 504):
            answer = self._message(503, "Not available right now", "Nothing was changed. Try again in a moment.")
            answer.headers["Retry-After"] = str(max(error.retry_after, 1))
            return answer
        return self._message(error.code, "This did not work", error.message)

    # Tools

    def _ask(self, method: str, request: Any, timeout: float = _TIMEOUT) -> Any:
        """A call of the auth service; raises ApiError."""
        try:
            return getattr(self._stub, method)(request, timeout=timeout)
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None

    def _page(
        self, template: str, status: int = 200, form_to: str = "", scripted: bool = False, **values: Any
    ) -> FlaskResponse:
        """form_to: an origin besides our own that the answer to a form of this page may lead to. scripted: the template
        has a script; no page with a form for secrets, or with a secret, may."""
        nonce = secrets.token_urlsafe(16)
        csrf = flask.request.cookies.get(self._cookie("csrf")) or secrets.token_urlsafe(24)
        body = flask.render_template(
            template, **{"person": None} | values, nonce=nonce, csrf=csrf, version=__version__, base=self._base()
        )
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self' {form_to}; "
            "frame-ancestors 'none'; base-uri 'none'" + (f"; script-src 'nonce-{nonce}'" if scripted else "")
        )
        answer = flask.Response(body, status, {**_HEADERS, "Content-Security-Policy": policy}, mimetype="text/html")
        answer.set_cookie(
            self._cookie("csrf"), csrf, path="/", httponly=True, samesite="Strict", secure=self._is_secure()
        )
        return answer

    def _redirect(self, location: str) -> FlaskResponse:
        return flask.Response(b"", 303, {**_HEADERS, "Location": location})

    def _is_own_form(self) -> bool:
        cookie = flask.request.cookies.get(self._cookie("csrf"), "")
        return bool(cookie) and hmac.compare_digest(cookie.encode(), flask.request.form.get("csrf", "").encode())

    def _is_secure(self) -> bool:
        return self._base().startswith("https://")

    def _cookie(self, name: str) -> str:
        # Browsers take a cookie with this prefix only from the very host, and only over https.
        return f"{'__Host-' if self._is_secure() else ''}gstack_{name}"

    def _session(self) -> str:
        return flask.request.cookies.get(self._cookie("session"), "")

    def _session_request(self) -> pages_pb2.SessionRequest:
        return pages_pb2.SessionRequest(session=self._session(), remote_address=self._address())

    def _address(self) -> str:
        return flask.request.remote_addr or ""


def _reason(response: auth_pb2.HttpResponse) -> str:
    """The text of an OAuth error answer: RFC 6749, 5.2."""
    try:
        found = flask.json.loads(response.body)
        return str(found.get("error_description") or found["error"])
    except (ValueError, KeyError, AttributeError):
        return "The request is invalid."


def _span(seconds: int) -> str:
    if seconds <= 60:
        return "a minute"
    return f"{-(-seconds // 60)} minutes" if seconds < 7200 else f"{-(-seconds // 3600)} hours"
