# shellcheck shell=bash disable=SC2034
what="the card's interrupts put off while a queue is being polled (napi_defer_hard_irqs, gro_flush_timeout)"
why="a busy shard takes what has come at every epoch anyway; an interrupt for each packet in between only stops it"
cost="up to gro_flush_timeout (200 us) of latency for a packet that comes while nobody polls"
interaction="corebid gathers answers for up to fanout.epoch_us_max itself. net.core.busy_poll stays 0: a shard that sleeps is to sleep"
measured="not measured here: needs a card; loopback has no interrupts"

check() {
    local card deferred
    card=$(nic)
    deferred=$(read_one "/sys/class/net/$card/napi_defer_hard_irqs") || deferred=
    [ -n "$card" ] && [ -n "$deferred" ] || { not_here "no network card, or it cannot do this"; return; }
    if ((deferred > 0)); then good "$card: napi_defer_hard_irqs = $deferred"; else
        falls_short "$card: an interrupt for each batch of packets (worth it from some 100,000 packets/s on)"
    fi
}
apply() {
    local card
    card=$(nic)
    [ -n "$card" ] || { not_here "no network card"; return; }
    put "/sys/class/net/$card/napi_defer_hard_irqs" 2
    put "/sys/class/net/$card/gro_flush_timeout" 200000
}
