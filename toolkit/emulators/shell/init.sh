#!/bin/sh
# init.sh - /init of an emulated board: network, an ssh server, and a shell on the console.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
hostname qedge
ip link set lo up
chown -R 0:0 /root /etc/dropbear
i=0
while [ $i -lt 400 ]; do # a USB network takes its time
    for card in /sys/class/net/[euw]*; do [ -e "$card" ] && break 2; done
    sleep 0.05
    i=$((i + 1))
done
card=${card##*/}
ip link set "$card" up
ip addr add 10.0.2.15/24 dev "$card"
# who may log in is the kernel's command line's to say: TYPE:KEY
keys=/root/.ssh/authorized_keys
key=$(sed -n 's/.*qkey=\([^ ]*\).*/\1/p' /proc/cmdline | tr : ' ')
grep -qsxF "$key" $keys || echo "$key" >>$keys
chmod 600 $keys
dropbear -r /etc/dropbear/dropbear_ed25519_host_key -W 2097152 -p 22
echo QEDGE-READY
while :; do
    setsid sh -c "exec sh </dev/console >/dev/console 2>&1"
    sleep 1
done
