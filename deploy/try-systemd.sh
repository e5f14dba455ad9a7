#!/usr/bin/env bash
# Tries deploy/openvalidators.service under a real systemd: PID 1 of namespaces of its own (processes, mounts, network, cgroups), over
# a throw-away copy of this machine's files. Nothing outside of them is changed. Needs root, systemd and cgroup v2.
#
#     deploy/try-systemd.sh target/release/openvalidators MODELS [WATCHDOG_SECONDS]
#
# MODELS is a folder of fetched models (`openvalidators models fetch`). With WATCHDOG_SECONDS the unit's own two minutes are not
# waited for. It prints what systemd says after: start, reload, `kill -9`, SIGSTOP, stop, a configuration that cannot be read.
set -euo pipefail
[ "$#" -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }

here="$(cd "$(dirname "$0")" && pwd)"
binary="$(realpath "$1")" models="$(realpath "$2")" watchdog="${3:-}"
work="$(mktemp -d)"
groups="$(findmnt --noheadings --first-only --types cgroup2 --output TARGET)" || { echo "no cgroup v2 is mounted"; exit 1; }
group="$groups/try-systemd-$$"
mkdir "$group" "$work/shared" "$work/over" "$work/root"
manager=""
clean() {
  [ -z "$manager" ] || kill -9 "$manager" 2>/dev/null || true
  wait 2>/dev/null || true
  find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT

cp "$binary" "$work/shared/openvalidators"
cp "$here/openvalidators.service" "$work/shared/"
cp -r "$models" "$work/shared/models"
[ -z "$watchdog" ] || printf '[Service]\nWatchdogSec=%s\n' "$watchdog" >"$work/shared/watchdog.conf"
# The local network, and rewards that need no time.
cat >"$work/shared/config.toml" <<'END'
[chain.local]
block_seconds = 0.5
[rewards.weights]
dpo_reward_model = 0.0
constant_reward_model = 1.0
[rewards.relevance]
enabled = false
[rewards.diversity]
enabled = false
END

# === PID 1 =============================================================================================================

cat >"$work/boot" <<'END'
set -euo pipefail
work="$1" root="$1/root"
mount --make-rprivate /
mount -t tmpfs -o size=3g tmpfs "$work/over"
mkdir "$work/over/upper" "$work/over/work"
mount -t overlay -o "lowerdir=/,upperdir=$work/over/upper,workdir=$work/over/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/tmp/shared"
mount --bind "$work/shared" "$root/tmp/shared"
ip link set lo up
# Of this machine's own units none is started but what systemd itself is made of.
rm -rf "$root"/etc/systemd/system/*.wants
for unit in dbus.service dbus.socket systemd-networkd systemd-resolved systemd-timesyncd systemd-udevd systemd-logind \
  systemd-modules-load systemd-random-seed getty@tty1 console-getty; do
  case "$unit" in *.*) ;; *) unit="$unit.service" ;; esac
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
chroot "$root" useradd --system --home-dir /var/lib/openvalidators openvalidators
cd "$root"
mkdir tmp/old
pivot_root . tmp/old
umount -l /tmp/old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  "$(command -v /usr/lib/systemd/systemd || echo /lib/systemd/systemd)" --system --unit=multi-user.target --log-target=console
END

# === What is tried ====================================================================================================

cat >"$work/shared/try" <<'END'
set -uo pipefail
unit=openvalidators
say() {
  local shown
  shown="$(systemctl show $unit -p ActiveState,SubState,MainPID,NRestarts,Result,ExecMainStatus,StatusText | sort | tr '\n' ' ')"
  printf '%s  %-32s %s\n' "$(date +%T)" "$1" "$shown"
}
until_is() { for _ in $(seq 400); do [ "$(systemctl show $unit -p "$1" --value)" = "$2" ] && return; sleep 0.5; done; echo "no $1=$2"; }
pid() { systemctl show $unit -p MainPID --value; }

cd /tmp/shared
install -Dm755 openvalidators /usr/local/bin/openvalidators
install -Dm640 -g openvalidators config.toml /etc/openvalidators/config.toml
install -Dm644 openvalidators.service /etc/systemd/system/openvalidators.service
[ ! -e watchdog.conf ] || install -Dm644 watchdog.conf /etc/systemd/system/openvalidators.service.d/watchdog.conf
install -d -o openvalidators -g openvalidators /var/lib/openvalidators /var/lib/openvalidators/models
cp -r models/. /var/lib/openvalidators/models
chown -R openvalidators: /var/lib/openvalidators
systemctl daemon-reload
systemd-analyze verify /etc/systemd/system/openvalidators.service && echo "systemd-analyze verify: nothing to say"
systemd-analyze security --no-pager $unit | tail -1
systemctl start $unit; say "started (it had said READY=1)"
sleep 15; say "15 s later"
systemctl reload $unit; sleep 1; say "reloaded"
kill -9 "$(pid)"; sleep 1; say "kill -9"
until_is NRestarts 1; until_is ActiveState active; say "restarted"
kill -STOP "$(pid)"; say "stopped by SIGSTOP: no sign of life"
until_is NRestarts 2; until_is ActiveState active; say "restarted by the watchdog"
systemctl stop $unit; say "systemctl stop"
echo 'nonsense = 1' >>/etc/openvalidators/config.toml
systemctl start $unit 2>/dev/null; sleep 20; say "20 s after a wrong configuration"
sed -i '/nonsense/d' /etc/openvalidators/config.toml
systemctl reset-failed $unit; systemctl start $unit; say "mended"
systemctl stop $unit; say "systemctl stop"
runuser -u openvalidators -- /usr/local/bin/openvalidators ledger check --state-dir /var/lib/openvalidators/state
END

# shellcheck disable=SC2016
bash -c 'echo $$ >"$1/cgroup.procs"; exec unshare --fork --pid --mount --net --uts --ipc --cgroup bash "$2/boot" "$2"' \
  _ "$group" "$work" >"$work/console" 2>&1 &
parent=$!
for _ in $(seq 60); do
  manager="$(pgrep -P "$parent" || true)"
  enter=(nsenter -t "${manager:-0}" --mount --pid --net --uts --ipc --cgroup)
  [ -n "$manager" ] && "${enter[@]}" systemctl is-active --quiet multi-user.target 2>/dev/null && break
  kill -0 "$parent" 2>/dev/null || { cat "$work/console"; exit 1; }
  sleep 0.5
done
"${enter[@]}" systemctl --version | head -1
"${enter[@]}" bash /tmp/shared/try
