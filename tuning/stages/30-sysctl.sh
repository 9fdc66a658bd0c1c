# shellcheck shell=bash disable=SC2034
what="the kernel settings in tuning/sysctl.conf"
why="each has its reason beside it there: queues that hold a burst, connections that stay fast when idle, nothing reset when a shard ends"
cost="memory for queues while they are full"
interaction="what stands in /etc/sysctl.d is applied at boot; this is not"
measured="not measured here: on loopback no queue was ever full, and no shard ended with connections waiting"

rows() { sed -E 's/#.*//; s/[[:space:]]+$//; /^$/d' "$here/sysctl.conf"; }
file_of() { echo "/proc/sys/${1//.//}"; }
check() {
    local key want is
    while IFS='=' read -r key want; do
        key=${key// /} want=$(echo $want)
        is=$(read_one "$(file_of "$key")" | tr '\t' ' ') || true
        if [ -z "$is" ]; then not_here "$key is not known here"; continue; fi
        if enough "$key" "$is" "$want"; then good "$key = $is"; else falls_short "$key = $is, wanted: $want"; fi
    done < <(rows)
}
# enough KEY IS WANT: switches must be as wanted, sizes at least so large, a range at least so wide.
enough() {
    local key=$1 is want n
    read -ra is <<<"$2"
    read -ra want <<<"$3"
    case $key in
        *slow_start_after_idle | *migrate_req) [ "${is[0]}" = "${want[0]}" ] ;;
        *port_range) ((is[0] <= want[0] && is[1] >= want[1])) ;;
        *) for n in "${!want[@]}"; do
            # The first of three is a floor under memory pressure, the second where a connection begins: the third counts.
            ((n == ${#want[@]} - 1)) || continue
            ((is[n] >= want[n])) || return 1
        done ;;
    esac
}
apply() {
    local key want is
    while IFS='=' read -r key want; do
        key=${key// /} want=$(echo $want)
        is=$(read_one "$(file_of "$key")" | tr '\t' ' ') || continue
        enough "$key" "$is" "$want" || put "$(file_of "$key")" "$want"
    done < <(rows)
}
