# shellcheck shell=bash disable=SC2034
what="memory that shards may lock"
why="glommio registers memory of each executor with the kernel (64 kB for storage that a shard does not use, and its rings); without it the shard does not start"
cost="none until it is used: half a megabyte a shard at most"
interaction="LimitMEMLOCK in the unit goes before limits.d"
measured="no effect on speed; 16 shards start with 8 MiB"
target=/etc/security/limits.d/corebid-memlock.conf

check() {
    local hard cores
    hard=$(awk '/^Max locked memory/ { print $5 }' "$sys/proc/self/limits")
    cores=$(shard_cores | wc -w)
    if [ "$hard" = unlimited ] || ((hard >= cores * 524288)); then
        good "up to $hard bytes locked, for $cores shards"
    else
        falls_short "up to $hard bytes locked, $cores shards may need $((cores * 524288))"
    fi
}
apply() {
    if [ -n "${DRY_RUN:-}" ]; then echo "  would write $target"; return; fi
    printf '* - memlock 65536\nroot - memlock 65536\n' >"$sys$target"
    echo "  wrote $target: for logins from now on, and it stays; services have LimitMEMLOCK"
}
undo() { rm -f "$sys$target"; echo "  removed $target"; }
