"""The script of guests as it is in one: with the system's own commands, and a router that serves user data.

The guest is this machine's root file system under a layer of its own, in namespaces of its own: root alone can make it.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.unit.test_userdata import guest
from tests.waits import LONG, until

MARK = "# Added by gstack"
# Serves the file `served`; without it 404. `endless` in its place never ends.
ROUTER = """
import fcntl, http.server, pathlib, socket, struct, sys

folder = pathlib.Path(sys.argv[1])
with socket.socket() as one:
    # The loopback of this network namespace goes up.
    fcntl.ioctl(one, 0x8914, struct.pack("16sH14x", b"lo", 0x41))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        (folder / "asked").write_text(self.path)
        if (folder / "endless").exists():
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)
        found = (folder / "served").read_bytes() if (folder / "served").exists() else None
        self.send_response(404 if found is None else 200)
        self.end_headers()
        self.wfile.write(found or b"<html>no such page</html>")

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 80), Handler)
(folder / "ready").touch()
server.serve_forever()
"""
# Prepares the root and stays; others enter its namespaces.
INIT = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --rbind /dev "$1/root/dev"
echo "127.0.0.1 data-server" > "$1/root/etc/hosts"
touch "$2/mounted"
exec sleep infinity
"""


class Guest:
    def __init__(self, folder: Path):
        self.folder, self._place = folder, folder / "layer"
        self._place.mkdir()
        apart = ["unshare", "--mount", "--net", "--propagation", "private"]
        self._init = subprocess.Popen([*apart, "sh", "-c", INIT, "sh", self._place, folder], stderr=subprocess.PIPE)
        self._router: subprocess.Popen[bytes] | None = None

    def is_up(self) -> bool:
        until(lambda: (self.folder / "mounted").exists() or self._init.poll() is not None, pause=0.01)
        return self._init.poll() is None

    def begin(self) -> None:
        (self.folder / "router.py").write_text(ROUTER)
        command = [*self._enter("--net"), sys.executable, self.folder / "router.py", self.folder]
        self._router = subprocess.Popen(command)
        until((self.folder / "ready").exists, pause=0.01)

    def _enter(self, *spaces: str) -> list[str]:
        return ["nsenter", "--target", str(self._init.pid), *spaces]

    def run(self, *command: str, stdin: str | None = None) -> str:
        """A command in the guest, as root."""
        whole = [*self._enter("--mount", "--net"), "chroot", str(self._place / "root"), *command]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(
            whole, env=environment, input=stdin, capture_output=True, text=True, timeout=LONG, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def boot(self, metadata: dict[str, str]) -> None:
        script = guest(metadata, had_ours=True, now=1.0).removeprefix(b"#cloud-boothook\n").decode()
        # systemd of this machine is not the guest's.
        self.run("sh", "-c", "mkdir -p /run/systemd/system && cat > /boothook", stdin=script)
        self.run("sh", "-c", "printf '#!/bin/sh\\n' > /usr/bin/systemctl; sh /boothook")

    def serve(self, content: bytes | None) -> None:
        (self.folder / "served").unlink(missing_ok=True)
        if content is not None:
            (self.folder / "served").write_bytes(content)

    def minute(self) -> None:
        self.run("sh", "/var/lib/gstack/refresh", "look")

    def away(self) -> None:
        """The router answers no more."""
        if self._router:
            self._router.kill()
            self._router.wait()

    def keys(self, user: str) -> list[str]:
        """Without our marks."""
        text = self.run("sh", "-c", f"cat ~{user}/.ssh/authorized_keys")
        return [line for line in text.splitlines() if line != MARK]

    def groups(self, user: str) -> list[str]:
        return self.run("id", "-nG", user).split()

    def close(self) -> None:
        self.away()
        self._init.kill()
        self._init.wait()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Guest]:
    if os.geteuid():
        pytest.skip("only root can make a root file system of its own")
    made = Guest(tmp_path)
    try:
        if not made.is_up():
            pytest.skip("no layer over the root file system here")
        made.begin()
        yield made
    finally:
        made.close()


def key(comment: str) -> str:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    return f"{public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()} {comment}"


def test_keys_of_a_running_guest(real: Guest) -> None:
    """Made before anybody had a key; then keys come, go and end, and those that are not ours stay."""
    first, second, ann, own = key("ian@home"), key("ian@work"), key("ann@home"), key("by hand")
    real.boot({})
    real.serve(guest({"ssh-keys": f"ian:{first}\nian:{second}\nann:{ann}"}))
    real.minute()
    assert (real.folder / "asked").read_text() == "/latest/user-data"
    assert (real.keys("ian"), real.keys("ann")) == ([first, second], [ann])
    # What sshd asks of them.
    modes = real.run("sh", "-c", "stat -c '%a %U' ~ian/.ssh ~ian/.ssh/authorized_keys").splitlines()
    assert modes == ["700 ian", "600 ian"]
    real.run("sh", "-c", "ssh-keygen -l -f ~ian/.ssh/authorized_keys")
    # As Google's agent gives it.
    assert real.run("cat", "/etc/sudoers.d/google_sudoers") == "%google-sudoers ALL=(ALL:ALL) NOPASSWD:ALL\n"
    assert "google-sudoers" in real.groups("ian") and "google-sudoers" in real.groups("ann")

    real.run("sh", "-c", "cat >> ~ian/.ssh/authorized_keys", stdin=f"{own}\n")
    real.serve(gzip.compress(guest({"ssh-keys": f"ian:{second}"})))
    real.minute()
    assert sorted(real.keys("ian")) == sorted([own, second])
    assert real.keys("ann") == []
    assert "google-sudoers" in real.groups("ian") and "google-sudoers" not in real.groups("ann")

    real.serve(guest({}, had_ours=True))
    real.minute()
    assert real.keys("ian") == [own]
    assert "google-sudoers" not in real.groups("ian")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda real: real.serve(None),
        lambda real: real.serve(b""),
        lambda real: real.serve(os.urandom(300_000)),
        lambda real: real.serve(b"#:gstack keys\nian 0 ssh-rsa x\n"),
        lambda real: real.serve(gzip.compress(b"\0" * 50_000_000)),
        lambda real: (real.folder / "endless").touch(),
        lambda real: real.away(),
    ],
    ids=["404", "nothing", "garbage", "half", "bomb", "endless", "away"],
)
def test_a_router_that_says_nothing_good_changes_nothing(real: Guest, spoil: Callable[[Guest], object]) -> None:
    known = key("ian@home")
    real.boot({"ssh-keys": f"ian:{known}"})
    spoil(real)
    real.minute()
    assert real.keys("ian") == [known]
    assert int(real.run("du", "-sk", "/var/lib/gstack").split()[0]) < 200


def test_a_key_ends(real: Guest) -> None:
    end = int(time.time()) + 3
    google = json.dumps({"userName": "ian@example.org", "expireOn": datetime.fromtimestamp(end, UTC).isoformat()})
    ending, staying = key(f"google-ssh {google.replace('+00:00', '+0000')}"), key("ann@home")
    real.boot({"ssh-keys": f"ian:{ending}\nann:{staying}"})
    (line,) = real.keys("ian") or [""]
    assert line.endswith(ending)
    until(lambda: time.time() > end, pause=0.1)
    # Also without a router.
    real.away()
    real.minute()
    assert (real.keys("ian"), real.keys("ann")) == ([], [staying])
    assert "google-sudoers" not in real.groups("ian")


def test_scripts_are_run_as_they_are(real: Guest) -> None:
    scripts = {"startup-script": 'echo "$0 ü" > /started\n', "shutdown-script": "echo > /ended\n"}
    real.boot({name: f"#!/bin/sh\n{text}" for name, text in scripts.items()})
    real.run("run-parts", "--regex", ".*", "/var/lib/cloud/scripts/per-boot")
    assert real.run("cat", "/started") == "/var/lib/cloud/scripts/per-boot/startup-script ü\n"
    # What the unit of systemd does when the guest shuts down.
    stop = real.run("sed", "-n", "s/^ExecStop=//p", "/run/systemd/system/gstack-shutdown.service").strip()
    real.run(*shlex.split(stop.replace("$$", "$")))
    assert real.run("cat", "/ended") == "\n"
