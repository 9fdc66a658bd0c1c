# shellcheck shell=bash disable=SC2034
what="a limit of open files that holds all connections"
why="every connection to an SSP or DSP is a file; without one left, connections wait unaccepted and calls end as errors"
cost="some kernel memory for each that is open, none for the limit"
interaction="LimitNOFILE in the unit goes before limits.d, which is for logins; fs.nr_open bounds both"
measured="no effect on speed; 'corebid doctor --config FILE' says how many a configuration needs"
limit=1048576
target=/etc/security/limits.d/corebid.conf

check() {
    local hard
    hard=$(awk '/^Max open files/ { print $5 }' "$sys/proc/self/limits")
    if [ "$hard" = unlimited ] || ((hard >= 65536)); then good "up to $hard open files"; else
        falls_short "up to $hard open files; a 16-core host with HTTP/1.1 to 23 DSPs needs 25,000 and more"
    fi
}
apply() {
    put /proc/sys/fs/nr_open "$limit"
    if [ -n "${DRY_RUN:-}" ]; then echo "  would write $target"; return; fi
    printf '* - nofile %s\nroot - nofile %s\n' "$limit" "$limit" >"$sys$target"
    echo "  wrote $target: for logins from now on, and it stays; services have LimitNOFILE"
}
undo() { rm -f "$sys$target"; put_back; }
