# shellcheck shell=bash disable=SC2034
what="the shards' cores for shards alone: other services are kept on the rest"
why="a shard that waits for its core is late with every orchestration it has; on a core of its own it waits for nobody"
cost="those cores do nothing else, also when corebid has little to do"
interaction="before irq-affinity, which moves interrupts away too. Stronger, and at boot only: isolcpus=, nohz_full=, rcu_nocbs= with the same cores"
measured="by its absence, see the README: a compiler on the shard's core, allowed to, takes CPU away and p99 goes from 5 to 100 ms and more"

# By systemd's slices, at run time: what runs in them moves at once, and a reboot undoes it.
slices="system.slice user.slice init.scope"
check() {
    local isolated others
    others=$(other_cores)
    [ -n "$others" ] || { falls_short "no core is left for anything else: leave one out of server.cores"; return; }
    isolated=$(read_one /sys/devices/system/cpu/isolated) || isolated=
    if [ -n "$isolated" ]; then good "isolated at boot: $isolated (shards: $(shard_cores))"; return; fi
    if ! command -v systemctl >/dev/null || ! systemctl is-system-running >/dev/null 2>&1; then
        not_here "no systemd: keep other processes off cores $(shard_cores)with cpusets, or isolcpus= at boot"
        return
    fi
    local allowed
    allowed=$(systemctl show -P AllowedCPUs system.slice)
    if [ -n "$allowed" ]; then good "system.slice has cores $allowed"; else
        falls_short "other services may run on the shards' cores ($(shard_cores))"
    fi
}
apply() {
    local slice others
    others=$(other_cores)
    if ! command -v systemctl >/dev/null; then not_here "no systemd"; return; fi
    for slice in $slices; do
        if [ -n "${DRY_RUN:-}" ]; then echo "  would give $slice the cores $others"; continue; fi
        systemctl set-property --runtime "$slice" "AllowedCPUs=$others" && echo "  $slice has cores $others"
    done
    echo "  corebid itself must then run in a slice of its own: Slice=corebid.slice in its unit"
}
undo() {
    local slice
    command -v systemctl >/dev/null || { not_here "no systemd"; return; }
    for slice in $slices; do systemctl set-property --runtime "$slice" AllowedCPUs= && echo "  $slice has all cores"; done
}
