"""What the script does that a guest gets: run here by real shells, in a folder that stands for its file system."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.test_userdata import NOW, OTHER, RSA, google, guest

SHELLS = [shell for shell in ("/bin/dash", "/bin/bash", "/bin/sh") if Path(shell).exists()]
MARK = "# Added by gstack"
Boot = Callable[..., None]


class Machine:
    """A guest. said: the commands of the system that were called; served: user data that CloudStack's router has."""

    def __init__(self, root: Path, shell: str):
        self.root, self.shell, self.openssh = root, shell, "9.2p1"
        self.commands, self.served = root / "commands", root / "served"
        for folder in ("home/debian/.ssh", "etc", "run/systemd/system", "commands"):
            (root / folder).mkdir(parents=True)
        (root / "etc/passwd").write_text("debian:x:1000:1000::/home/debian:/bin/sh\n")
        log = f'echo "${{0##*/}} $*" >> {root}/said'
        for name in ("systemctl", "usermod", "groupadd", "gpasswd", "chown", "wget", "ip", "restorecon", "blkid"):
            self._command(name, log)
        self._command(
            "getent",
            f'case $1 in hosts) echo "10.1.1.1 data-server" ;; *) grep "^$2:" {root}/etc/passwd ;; esac',
        )
        user = f'for user; do :; done\necho "$user:x:1:1::/home/$user:/bin/bash" >> {root}/etc/passwd'
        self._command("useradd", f"{log}\n{user}\nmkdir -p {root}/home/$user")
        self._command("curl", f"{log}\ncat {self.served}")
        self._command("ssh", f'echo "OpenSSH_$(cat {root}/openssh), x" >&2')
        self._command("date", f'case $1 in +%s) cat {root}/now ;; *) TZ=Etc/GMT-2 exec /bin/date "$@" ;; esac')
        self.at(NOW)

    def _command(self, name: str, text: str) -> None:
        (self.commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.commands / name).chmod(0o755)

    def at(self, now: float, openssh: str = "9.2p1") -> None:
        (self.root / "now").write_text(str(int(now)))
        (self.root / "openssh").write_text(openssh)

    def _run(self, *arguments: str) -> None:
        path = f"{self.commands}:{os.environ['PATH']}"
        environment = {"ROOT": str(self.root), "PATH": path}
        done = subprocess.run([self.shell, *arguments], env=environment, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")

    def boot(self, metadata: dict[str, str]) -> None:
        """As cloud-init runs a boothook: without its first line."""
        script = self.root / "part-001"
        script.write_bytes(guest(metadata, had_ours=True, now=1.0).removeprefix(b"#cloud-boothook\n"))
        self._run(str(script))

    def minute(self) -> None:
        """What the timer does."""
        self._run(str(self.root / "var/lib/gstack/refresh"), "look")

    def drive(self, path: str, user_data: bytes) -> None:
        """Give it a config drive, with the user data in the one or the other place."""
        file = self.root / "drive" / path
        file.parent.mkdir(parents=True)
        file.write_bytes(user_data)
        log = f'echo "${{0##*/}} $*" >> {self.root}/said'
        self._command("blkid", "echo /dev/sr0")
        self._command("blockdev", log)
        self._command("mount", f'{log}\nrm -r "$4" && cp -r {self.root}/drive "$4"')
        self._command("umount", f'{log}\nrm -r "$1" && mkdir "$1"')

    def keys(self, user: str) -> str:
        return (self.root / "home" / user / ".ssh/authorized_keys").read_text()

    def said(self) -> str:
        return (self.root / "said").read_text()

    def file(self, path: str) -> Path:
        return self.root / path


@pytest.fixture(params=SHELLS)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, request.param)


def line(key: str) -> str:
    return f"{MARK}\n{key}\n"


def test_users_and_keys(machine: Machine) -> None:
    machine.file("home/debian/.ssh/authorized_keys").write_text(f"{OTHER} by hand\n")
    machine.boot({"ssh-keys": f"ian:{RSA} a\\b $HOME `x`\nian:{OTHER}\ndebian:{RSA}"})
    assert machine.keys("ian") == line(f"{RSA} a\\b $HOME `x`") + line(OTHER)
    assert machine.keys("debian") == f"{OTHER} by hand\n" + line(RSA)
    assert machine.file("home/ian/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    assert machine.file("home/ian/.ssh").stat().st_mode & 0o777 == 0o700
    assert "NOPASSWD" in machine.file("etc/sudoers.d/google_sudoers").read_text()
    assert machine.file("etc/sudoers.d/google_sudoers").stat().st_mode & 0o777 == 0o440
    said = machine.said()
    assert (
        "useradd -m -s /bin/bash -p * ian" in said and "debian" not in said.partition("useradd")[2].partition("\n")[0]
    )
    assert "usermod -a -G google-sudoers ian" in said
    assert "systemctl start --no-block gstack-keys.timer" in said


def test_what_is_gone_goes_and_others_keys_stay(machine: Machine) -> None:
    machine.boot({"ssh-keys": f"ian:{RSA}\ndebian:{RSA}"})
    with machine.file("home/ian/.ssh/authorized_keys").open("a") as file:
        file.write(f"{OTHER} of ian himself\n")
    machine.boot({"ssh-keys": f"debian:{OTHER}"})
    assert machine.keys("ian") == f"{OTHER} of ian himself\n"
    assert machine.keys("debian") == line(OTHER)
    assert "gpasswd -d ian google-sudoers" in machine.said()
    before = machine.file("home/debian/.ssh/authorized_keys").stat().st_ino
    machine.minute()
    assert machine.file("home/debian/.ssh/authorized_keys").stat().st_ino == before


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_running_guest_sees_new_keys(machine: Machine, pack: Callable[[bytes], bytes]) -> None:
    machine.boot({"ssh-keys": f"ian:{RSA}"})
    items = {"ssh-keys": f"ann:{OTHER}", "user-data": "#!/bin/sh\n#:gstack keys\nevil 0 ssh-rsa x\n#:gstack end\n"}
    machine.served.write_bytes(pack(guest(items)))
    machine.minute()
    assert machine.keys("ann") == line(OTHER)
    assert machine.keys("ian") == ""
    assert "evil" not in machine.file("etc/passwd").read_text()
    assert "http://10.1.1.1/latest/user-data" in machine.said()


@pytest.mark.parametrize(
    "answer", [None, b"", b"<html>no such page</html>", b"#:gstack keys\nian 0 ssh", b"\x1f\x8b\0"]
)
def test_without_an_answer_the_keys_stay(machine: Machine, answer: bytes | None) -> None:
    machine.boot({"ssh-keys": f"ian:{RSA}"})
    if answer is not None:
        machine.served.write_bytes(answer)
    machine.minute()
    assert machine.keys("ian") == line(RSA)


@pytest.mark.parametrize("place", ["openstack/latest/user_data", "cloudstack/userdata/user_data.txt"])
def test_a_running_guest_with_a_config_drive_sees_new_keys(machine: Machine, place: str) -> None:
    machine.boot({"ssh-keys": f"ian:{RSA}"})
    machine.drive(place, guest({"ssh-keys": f"ann:{OTHER}"}))
    machine.minute()
    assert (machine.keys("ann"), machine.keys("ian")) == (line(OTHER), "")
    said = machine.said()
    assert said.index("blockdev --flushbufs /dev/sr0") < said.index("mount -o ro /dev/sr0")
    assert "umount" in said
    # Once the router has told of keys, the drive is not what counts.
    machine.served.write_bytes(guest({"ssh-keys": f"ian:{OTHER}"}))
    machine.minute()
    machine.served.unlink()
    machine.minute()
    assert (machine.keys("ann"), machine.keys("ian")) == ("", line(OTHER))


def test_a_config_drive_without_keys_changes_nothing(machine: Machine) -> None:
    machine.boot({"ssh-keys": f"ian:{RSA}"})
    machine.drive("openstack/latest/user_data", b"#cloud-config\n")
    machine.minute()
    assert machine.keys("ian") == line(RSA)


@pytest.mark.parametrize(("openssh", "with_option"), [("7.4p1", False), ("7.7p1", True), ("10.0p2", True)])
def test_keys_end(machine: Machine, openssh: str, with_option: bool) -> None:
    machine.at(NOW, openssh)
    machine.boot({"ssh-keys": f"ian:{RSA}{google(2037)}\nann:no-pty {OTHER}{google(2037)}\nold:{RSA}{google(2017)}"})
    # Two hours east of Greenwich.
    option = 'expiry-time="20370605163639"' if with_option else ""
    assert machine.keys("ian") == line(f"{option} {RSA}{google(2037)}".lstrip())
    assert machine.keys("ann") == line(f"{option},no-pty {OTHER}{google(2037)}".lstrip(","))
    assert "old" not in machine.file("etc/passwd").read_text()
    machine.at(2127825399, openssh)
    machine.minute()
    assert machine.keys("ian") == machine.keys("ann") == ""
    assert "gpasswd -d ian google-sudoers" in machine.said()


def test_a_home_that_leads_elsewhere_is_left_alone(machine: Machine) -> None:
    machine.file("home/debian/.ssh").rmdir()
    machine.file("elsewhere").mkdir()
    machine.file("home/debian/.ssh").symlink_to(machine.file("elsewhere"))
    machine.boot({"ssh-keys": f"debian:{RSA}"})
    assert not list(machine.file("elsewhere").iterdir())


def test_a_file_that_leads_elsewhere_is_not_copied(machine: Machine) -> None:
    """A user would get what only root may read."""
    machine.file("secret").write_text("root's own\n")
    machine.file("home/debian/.ssh/authorized_keys").symlink_to(machine.file("secret"))
    machine.boot({"ssh-keys": f"debian:{RSA}"})
    assert machine.file("home/debian/.ssh/authorized_keys").is_symlink()
    assert machine.file("secret").read_text() == "root's own\n"


BOOT = "var/lib/cloud/scripts/per-boot"


@pytest.mark.parametrize(
    "script",
    ["#!/bin/sh\necho $HOME `x` \\n 'y'\n", "no end of line", "EOF\ngstack-keys-end\n", "zürich\r\n", "\0\x01", "\n\n"],
)
def test_scripts_are_there_to_the_byte(machine: Machine, script: str) -> None:
    machine.boot({"startup-script": script, "shutdown-script": script})
    for path in (f"{BOOT}/startup-script", "var/lib/gstack/shutdown/shutdown-script"):
        assert machine.file(path).read_bytes() == script.encode()
        assert machine.file(path).stat().st_mode & 0o777 == 0o700
    assert "systemctl start --no-block gstack-shutdown.service" in machine.said()
    machine.boot({"ssh-keys": f"ian:{RSA}"})
    assert not machine.file(f"{BOOT}/startup-script").exists()
    assert not machine.file("var/lib/gstack/shutdown/shutdown-script").exists()


def test_a_script_of_an_address(machine: Machine) -> None:
    machine.boot({"startup-script-url": "gs://bucket/it's $HOME"})
    text = machine.file(f"{BOOT}/startup-script-url").read_text()
    assert "'https://storage.googleapis.com/bucket/it'\"'\"'s $HOME'" in text
    subprocess.run([machine.shell, "-n", str(machine.file(f"{BOOT}/startup-script-url"))], check=True)


def test_units_of_systemd(machine: Machine) -> None:
    machine.boot({"shutdown-script": "echo bye"})
    unit = machine.file("run/systemd/system/gstack-shutdown.service").read_text()
    assert f'ExecStop=/bin/sh -c "for file in {machine.root}/var/lib/gstack/shutdown/*; do $$file; done"' in unit
    assert "OnUnitActiveSec=60" in machine.file("run/systemd/system/gstack-keys.timer").read_text()
