# shellcheck shell=bash disable=SC2034
what="interrupts away from the shards' cores, but for those of the network queues that belong to them"
why="an interrupt stops whatever runs; a disk's or another service's has no business on a shard's core"
cost="the other cores take them all"
interaction="irqbalance moves them back: stop it, or give it IRQBALANCE_BANNED_CPULIST. The NIC's own queues: stage nic-queues"
measured="not measured here: the traffic of our runs is on loopback, which has no interrupts"

each_irq() {
    local path irq
    for path in "$sys"/proc/irq/[0-9]*; do
        irq=$(basename "$path")
        # The network card's queues are placed by nic-queues.
        [ -n "$(nic)" ] && compgen -G "$path/*$(nic)*" >/dev/null && continue
        [ -r "$path/smp_affinity_list" ] && echo "$irq"
    done
}
overlaps() { # list of cores: whether one of them is a shard's
    local core shards
    shards=" $(shard_cores) "
    for core in $(expand "$1"); do [[ $shards == *" $core "* ]] && return 0; done
    return 1
}
check() {
    local irq on count=0
    [ -n "$(other_cores)" ] || { not_here "no other core to take them"; return; }
    for irq in $(each_irq); do
        on=$(read_one "/proc/irq/$irq/effective_affinity_list") || on=$(read_one "/proc/irq/$irq/smp_affinity_list")
        [ -n "$on" ] && overlaps "$on" && count=$((count + 1))
    done
    if ((count == 0)); then good "no interrupt but the network's on cores $(shard_cores)"; else
        falls_short "$count interrupts may come to the shards' cores ($(shard_cores))"
    fi
    if pgrep -x irqbalance >/dev/null 2>&1; then falls_short "irqbalance runs and moves interrupts as it likes"; fi
}
apply() {
    local irq others
    others=$(other_cores)
    others=${others% }
    [ -n "$others" ] || { not_here "no other core to take them"; return; }
    for irq in $(each_irq); do put "/proc/irq/$irq/smp_affinity_list" "${others// /,}"; done
}
