# shellcheck shell=bash disable=SC2034
what="a receive and a transmit queue of the network card for each shard's core, with its interrupt there (RSS, XPS)"
why="a packet that is taken in on the core whose shard waits for it is in that core's cache; taken in elsewhere, the other core has to be interrupted"
cost="the queues' memory, a few megabytes each; interrupts on the shards' cores, which stage irq-affinity keeps free of others"
interaction="RPS (rps_cpus) must be off, or packets are passed on to another core again. Which connection comes to which queue is the card's hash: it does not know which shard accepted it"
measured="not measured here: no network card with more than one queue, and traffic goes to loopback only"

queues() { compgen -G "$sys/sys/class/net/$1/queues/$2-*" | wc -l; }
check() {
    local card shards rx tx queue
    card=$(nic)
    shards=$(shard_cores | wc -w)
    [ -n "$card" ] && [ -d "$sys/sys/class/net/$card" ] || { not_here "no network card with a default route (NIC=...)"; return; }
    rx=$(queues "$card" rx) tx=$(queues "$card" tx)
    if ((rx >= shards && tx >= shards)); then good "$card: $rx receive and $tx transmit queues for $shards shards"; else
        falls_short "$card: $rx receive and $tx transmit queues for $shards shards (ethtool -l $card says how many it can have)"
    fi
    for queue in "$sys/sys/class/net/$card"/queues/rx-*; do
        if [ -r "$queue/rps_cpus" ] && [ -n "$(tr -d '0,\n' <"$queue/rps_cpus")" ]; then
            falls_short "$card: RPS is on for $(basename "$queue")"
        fi
    done
}
apply() {
    local card cores index=0 queue irq mask
    card=$(nic)
    read -ra cores <<<"$(shard_cores)"
    [ -n "$card" ] && [ -d "$sys/sys/class/net/$card" ] || { not_here "no network card with a default route (NIC=...)"; return; }
    if command -v ethtool >/dev/null && [ -z "${DRY_RUN:-}" ]; then
        if ethtool -L "$card" combined "${#cores[@]}" 2>/dev/null; then
            echo "  $card has ${#cores[@]} queues; the number is not put back by undo: ethtool -L $card combined N"
        else
            not_here "$card cannot have ${#cores[@]} queues"
        fi
    fi
    for queue in "$sys/sys/class/net/$card"/queues/tx-*; do
        printf -v mask '%x' $((1 << cores[index % ${#cores[@]}]))
        # A virtual card with one queue refuses a choice between one.
        [ "$(queues "$card" tx)" -gt 1 ] && put "/sys/class/net/$card/queues/$(basename "$queue")/xps_cpus" "$mask"
        index=$((index + 1))
    done
    for queue in "$sys/sys/class/net/$card"/queues/rx-*; do put "/sys/class/net/$card/queues/$(basename "$queue")/rps_cpus" 0; done
    index=0
    for irq in $(grep -E "$card|virtio.*input" "$sys/proc/interrupts" 2>/dev/null | sed -E 's/^ *([0-9]+):.*/\1/'); do
        put "/proc/irq/$irq/smp_affinity_list" "${cores[index % ${#cores[@]}]}"
        index=$((index + 1))
    done
}
