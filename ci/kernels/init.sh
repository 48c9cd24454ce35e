#!/bin/busybox sh
# The first program of a guest: prepares what tests expect of a system, runs /job, and says how that ended.
/bin/busybox --install -s /bin
export PATH=/prog:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
chmod 1777 /tmp /dev/shm
# The first group whose memory is counted makes the kernel alter its own code: best before anything else runs (see run.sh).
echo +memory > /sys/fs/cgroup/cgroup.subtree_control && mkdir /sys/fs/cgroup/first && rmdir /sys/fs/cgroup/first
. /environment
limit=$(sed 's/.*ringwatch_limit=\([0-9]*\).*/\1/' /proc/cmdline)
cd /tmp || poweroff -f
exec < /dev/null > /dev/ttyS0 2>&1
stty -opost < /dev/ttyS0
# In a line of its own, whatever the kernel was writing.
printf '\njob begins\n' > /dev/ttyS1
timeout "$limit" sh /job
echo "exit-status=$? kernel=$(uname -r)" > /dev/ttyS1
poweroff -f
