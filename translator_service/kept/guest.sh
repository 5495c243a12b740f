#!/bin/sh
# What the GCE metadata of this machine asks for: users with their keys, startup and shutdown scripts.
# cloud-init runs this early at every boot. ROOT is where the file system begins, for tests.
umask 022
state=$ROOT/var/lib/gstack boot=$ROOT/var/lib/cloud/scripts/per-boot units=$ROOT/run/systemd/system
mkdir -p "$state/shutdown" "$boot"
rm -f "$boot/startup-script" "$boot/startup-script-url" "$state"/shutdown/*
chmod 700 "$state"

cat > "$state/keys.new" <<'gstack-keys-end'
#:gstack keys
@keys@
#:gstack end
gstack-keys-end
mv "$state/keys.new" "$state/keys"

cat > "$state/refresh" <<'gstack-refresh-end'
#!/bin/sh
# Makes the users of the file `keys` (lines: user, seconds of 1970 at which the key ends or 0, key), and writes their
# keys into authorized_keys. Keys without our mark are others' and stay. With `look`, asks CloudStack's router, or its
# config drive, for the user data of now first; without an answer the file stays as it is.
umask 022
state=$ROOT/var/lib/gstack mark='# Added by gstack'

servers() {
    getent hosts data-server | awk '{print $1}'
    cat "$ROOT"/run/systemd/netif/leases/* "$ROOT"/var/lib/NetworkManager/*.lease 2>/dev/null | sed -n 's/^SERVER_ADDRESS=//p'
    cat "$ROOT"/var/lib/dhcp/*.lease* "$ROOT"/var/lib/dhclient/*.lease* 2>/dev/null |
        sed -n 's/.*dhcp-server-identifier \([0-9.]*\);.*/\1/p' | tail -n 1
    ip route 2>/dev/null | awk '$1 == "default" {print $3}'
}

fetch() {
    if command -v curl >/dev/null; then curl -fsS -m 10 "$1"; else wget -q -T 10 -O - "$1"; fi
}

drive() {
    device=$(blkid -l -o device -t LABEL=config-2 2>/dev/null)
    [ -n "$device" ] && mkdir -p "$state/drive" || return
    # What the kernel keeps of it may be from before it was written anew.
    blockdev --flushbufs "$device" 2>/dev/null
    mount -o ro "$device" "$state/drive" 2>/dev/null || return
    cat "$state/drive/openstack/latest/user_data" 2>/dev/null || cat "$state/drive/cloudstack/userdata/user_data.txt" 2>/dev/null
    umount "$state/drive"
}

# Takes the keys out of the user data that comes in; fails for what has none.
take() {
    head -c 2000000 > "$state/fetched"
    { gzip -dc "$state/fetched" 2>/dev/null || cat "$state/fetched"; } | head -c 4000000 |
        sed -n '/^#:gstack keys$/,/^#:gstack end$/p; /^#:gstack end$/q' > "$state/keys.new"
    rm -f "$state/fetched"
    [ "$(tail -n 1 "$state/keys.new")" = '#:gstack end' ] && mv "$state/keys.new" "$state/keys"
}

look() {
    for server in $(servers | awk '!seen[$0]++'); do
        fetch "http://$server/latest/user-data" 2>/dev/null | take && : > "$state/routed" && return
    done
    # A drive beside a router that is away for a moment would be of long ago.
    [ -e "$state/routed" ] || drive | take
}

own_keys() {
    while read -r name ends key; do
        [ "$name" = "$1" ] || continue
        if [ "$ends" != 0 ]; then
            [ "$ends" -gt "$now" ] || continue
            # sshd ends the key to the second, in its own time zone; older ones refuse a key with this option.
            if [ "${openssh:-0}" -ge 77 ]; then
                case $key in ssh-* | ecdsa-* | sk-*) gap=' ' ;; *) gap=, ;; esac
                key="expiry-time=\"$(date -d "@$ends" +%Y%m%d%H%M%S)\"$gap$key"
            fi
        fi
        printf '%s\n%s\n' "$mark" "$key"
    done < "$state/keys"
}

make_user() {
    getent passwd "$1" >/dev/null || useradd -m -s /bin/bash -p '*' "$1" 2>/dev/null ||
        { adduser -D "$1" && usermod -p '*' "$1"; } 2>/dev/null
    [ -e "$ROOT/etc/sudoers.d/google_sudoers" ] || {
        groupadd -f google-sudoers 2>/dev/null || addgroup google-sudoers 2>/dev/null
        mkdir -p "$ROOT/etc/sudoers.d"
        (umask 227; echo '%google-sudoers ALL=(ALL:ALL) NOPASSWD:ALL' > "$ROOT/etc/sudoers.d/google_sudoers")
    }
    usermod -a -G google-sudoers "$1" 2>/dev/null || addgroup "$1" google-sudoers 2>/dev/null
}

write_keys() {
    home=$ROOT$(getent passwd "$1" | cut -d : -f 6)
    file=$home/.ssh/authorized_keys
    # Root reads and writes here: what leads elsewhere is left alone.
    [ -d "$home" ] && [ ! -L "$home/.ssh" ] && [ ! -L "$file" ] || return
    { awk -v mark="$mark" '$0 == mark {getline; next} {print}' "$file" 2>/dev/null; own_keys "$1"; } > "$state/new"
    cmp -s "$state/new" "$file" && return
    [ -s "$state/new" ] || [ -e "$file" ] || return
    [ -d "$home/.ssh" ] || { mkdir -m 700 "$home/.ssh" && chown "$1:" "$home/.ssh"; }
    chmod 600 "$state/new" && chown "$1:" "$state/new" && mv "$state/new" "$file"
    command -v restorecon >/dev/null && restorecon -R "$home/.ssh"
}

[ "$1" = look ] && look
now=$(date +%s)
openssh=$(ssh -V 2>&1 | sed -n 's/^OpenSSH_\([0-9]*\)\.\([0-9]*\).*/\1\2/p')
touch "$state/users"
awk -v now="$now" '!/^#/ && NF && ($2 == 0 || $2 > now) {print $1}' "$state/keys" | sort -u > "$state/users.new"
while read -r user; do
    { getent passwd "$user" >/dev/null && grep -qxF "$user" "$state/users"; } || make_user "$user"
    write_keys "$user"
done < "$state/users.new"
while read -r user; do
    grep -qxF "$user" "$state/users.new" && continue
    write_keys "$user"
    gpasswd -d "$user" google-sudoers >/dev/null 2>&1
done < "$state/users"
mv "$state/users.new" "$state/users"
gstack-refresh-end

@scripts@
chmod 700 "$boot"/startup-script* "$state"/shutdown/* 2>/dev/null

sh "$state/refresh"
if [ -d "$units" ]; then
    printf '[Service]\nType=oneshot\nTimeoutStartSec=50\nExecStart=/bin/sh %s/refresh look\n' "$state" > "$units/gstack-keys.service"
    printf '[Timer]\nOnActiveSec=60\nOnUnitActiveSec=60\nAccuracySec=5\n' > "$units/gstack-keys.timer"
    printf '[Unit]\nAfter=network.target\n' > "$units/gstack-shutdown.service"
    printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nTimeoutStopSec=90\n' >> "$units/gstack-shutdown.service"
    printf 'ExecStop=/bin/sh -c "for file in %s/shutdown/*; do $$file; done"\n' "$state" >> "$units/gstack-shutdown.service"
    systemctl daemon-reload
    systemctl start --no-block gstack-keys.timer
    [ ! -e "$state/shutdown/shutdown-script" ] && [ ! -e "$state/shutdown/shutdown-script-url" ] ||
        systemctl start --no-block gstack-shutdown.service
else
    (while sleep 60; do sh "$state/refresh" look; done) </dev/null >/dev/null 2>&1 &
fi
exit 0
