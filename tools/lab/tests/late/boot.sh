#!/bin/sh
# Boots systemd as the first process of namespaces of its own: boot.sh ROOT CGROUP SOURCE BINARY
#
# ROOT is a directory that keeps /etc, /var and /usr/local from one boot to the next; all else is the host's /usr, which is
# only read, and empty. CGROUP is a directory of the host's cgroup2. SOURCE is the repository and BINARY the program, which are
# shown as a built repository in /src.
#
# The caller has made the namespaces for mounts, processes, the host's name and IPC, and has entered that of the network.
set -e
root=$1 cgroup=$2 source=$3 binary=$4
echo 0 >"$cgroup/cgroup.procs"
# With cgroups of its own only now: its root is the one that it is in.
exec unshare --cgroup sh -s "$root" "$source" "$binary" <<'SCRIPT'
set -e
root=$1 source=$2 binary=$3
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mkdir -p usr etc/systemd/system local/bin var proc sys dev run tmp root old src/dist src/target/release
mount --bind /usr usr
mount -o remount,bind,ro usr
mount --bind local usr/local
for link in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$link" ] && [ ! -L "$link" ]; then cp -P "/$link" .; fi
done
mount -t proc none proc
# As in any container: of the kernel's settings only those of the network are its own.
mount --bind proc/sys/net proc/sys/net
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro none sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=0755 none run
mount -t tmpfs -o mode=0755 none dev
mkdir dev/net dev/pts dev/shm
for node in null zero full random urandom tty net/tun; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
: >dev/console
mount --bind /dev/null dev/console
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
ln -s pts/ptmx dev/ptmx
mount --bind "$source/dist" src/dist
: >src/target/release/ipop
mount --bind "$binary" src/target/release/ipop
if [ ! -e etc/machine-id ]; then
    tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
    echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
    echo 'root:x:0:' >etc/group
    printf 'passwd: files\ngroup: files\n' >etc/nsswitch.conf
    cp /etc/ld.so.cache etc/
    if [ -d /etc/alternatives ]; then cp -a /etc/alternatives etc/; fi
    # Nobody logs in, and whoever sets up the network is the test.
    for unit in dbus.socket dbus.service systemd-logind.service getty.target console-getty.service \
        systemd-networkd.service systemd-networkd.socket systemd-resolved.service systemd-timesyncd.service; do
        ln -s /dev/null "etc/systemd/system/$unit"
    done
fi
pivot_root . old
umount -l old
systemd=/lib/systemd/systemd
[ -x "$systemd" ] || systemd=/usr/lib/systemd/systemd
# Nothing of it reaches the host's kernel: no module, no clock.
exec env -i container=ipop-lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time chroot . "$systemd" --unit=multi-user.target --log-target=journal </dev/null
SCRIPT
