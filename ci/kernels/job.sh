#!/bin/busybox sh
# In a guest: runs every program there is, and says of each how it went. What one wrote is shown where it failed, else what
# it could not test. Ends well if all did.
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
