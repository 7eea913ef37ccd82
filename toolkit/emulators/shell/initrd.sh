#!/bin/sh
# initrd.sh - /init of the initial RAM disk: loads its modules, and goes on from the disk.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/m/$module"; done </order
disk=$(sed 's/.*qroot=\([^ ]*\).*/\1/' /proc/cmdline)
i=0
while [ ! -b "$disk" ] && [ $i -lt 200 ]; do
    sleep 0.05
    i=$((i + 1))
done
mount -t ext4 "$disk" /mnt || exec sh
mount --move /dev /mnt/dev
exec switch_root /mnt /init
