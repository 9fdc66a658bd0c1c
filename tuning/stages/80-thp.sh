# shellcheck shell=bash disable=SC2034
what="transparent huge pages on request only (madvise), with none made while a program waits"
why="'always' lets the kernel stop a thread to find or make 2 MB of contiguous memory: a stall of milliseconds on a host that has been up for long"
cost="none that was seen"
interaction="mimalloc, the programs' allocator, asks for what it wants"
measured="2026-11-27, 2 cores of an AMD EPYC VM, HTTP/2, 6,000/s, 5 s each in turn: always 141 and 138 us of CPU per orchestration, madvise 135 and 136: no difference"

check() {
    local enabled
    enabled=$(read_one /sys/kernel/mm/transparent_hugepage/enabled) || { not_here "this kernel has none"; return; }
    case $enabled in
        *'[always]'*) falls_short "always: the kernel may stop a shard to make one" ;;
        *) good "$enabled" ;;
    esac
}
apply() {
    put /sys/kernel/mm/transparent_hugepage/enabled madvise
    put /sys/kernel/mm/transparent_hugepage/defrag madvise
}
