#!/bin/busybox sh
# In a guest: runs every program there is, and says of each how it went. What one wrote is shown where it failed, else what
# it could not test. Ends well if all did.

# Where memory is little, what one test has given back is to be there for the next.
if [ "$(awk '/^MemTotal/ { print $2 }' /proc/meminfo)" -lt 200000 ]; then
    export MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=65536
fi
failed=
for program in /prog/*; do
    name=${program##*/}
    name=${name%-*}
    begun=$(date +%s)
    "$program" --skip hostile:: > /tmp/output 2>&1
    status=$?
    result=$(grep '^test result' /tmp/output | tail -n 1)
    echo "$name: exit status $status after $(($(date +%s) - begun)) s: ${result#test result: }"
    if [ $status = 0 ]; then
        grep -ao 'SKIPPED.*' /tmp/output | sort | uniq -c
    else
        cat /tmp/output
        failed="$failed $name"
    fi
    # The guest's memory holds the programs too.
    rm "$program"
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
