# shellcheck shell=bash disable=SC2034
what="the shards' cores at full speed (governor 'performance') and not in deep sleep"
why="a core that has to wake up or speed up first makes the first calls of a burst late: 50 to 200 us out of a deep sleep state"
cost="power and heat, also when there is little to do"
interaction="in a virtual machine the host decides. The kernel's idle=poll goes further and costs much more"
measured="not measured here: the governor of this virtual machine is its host's"

each_core() { local core; for core in $(shard_cores); do echo "/sys/devices/system/cpu/cpu$core"; done; }
check() {
    local core governor slow=0 known=0
    for core in $(each_core); do
        governor=$(read_one "$core/cpufreq/scaling_governor") || continue
        known=$((known + 1))
        [ "$governor" = performance ] || slow=$((slow + 1))
    done
    if ((known == 0)); then not_here "the host of this virtual machine decides"; elif ((slow == 0)); then good "performance"; else
        falls_short "$slow of $known cores save power"
    fi
}
apply() {
    local core file
    for core in $(each_core); do
        put "$core/cpufreq/scaling_governor" performance
        # States that take more than 20 us to leave.
        for file in "$sys$core"/cpuidle/state*; do
            [ -r "$file/latency" ] && (($(cat "$file/latency") > 20)) && put "${file#"$sys"}/disable" 1
        done
    done
}
