# shellcheck shell=bash
# What the scripts of this directory share. They source it, nobody runs it: it needs `usage` of them, and stops by pid what they have
# started, however they end.

script=${0##*/}
pids=()
scratch=$(mktemp -d)

stop_last() {
    kill "${pids[-1]}" 2>/dev/null || true
    wait "${pids[-1]}" 2>/dev/null || true
    unset 'pids[-1]'
}

# Only what was started here; newest first, so that an exchange drains while its DSPs are there.
stop_all() {
    while ((${#pids[@]})); do stop_last; done
    rm -rf "$scratch"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Sets a variable for each option given, of the same name but with underscores: take_options "NAMES" ALONE "$@". What is no option
# becomes the variable ALONE, if that is a name, and what stands behind -- is left in the array `rest`.
take_options() {
    local names=" $1 " alone=$2 name
    shift 2
    rest=()
    while (($#)); do
        name=${1#--}
        case $1 in
            -h | --help) usage; exit 0 ;;
            --) shift; rest=("$@"); return ;;
            --*)
                if [[ $names != *" $name "* ]] || (($# < 2)); then usage >&2; exit 2; fi
                declare -g "${name//-/_}=$2"
                shift 2
                ;;
            *)
                if [[ -z $alone || $1 == -* ]]; then usage >&2; exit 2; fi
                declare -g "$alone=$1"
                shift
                ;;
        esac
    done
}

# To the root of the project, where what $bin and $out name is still found. Builds exchange and load generator unless $bin is set.
to_root() {
    [[ -z $bin ]] || bin=$(realpath "$bin")
    out=$(realpath -m "$out")
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
    if [[ -z $bin ]]; then
        cargo build --release --locked --quiet -p corebid -p corebid-loadtest
        bin=$PWD/target/release
    fi
}

# These programs are there.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || { echo "$script: $tool is missing" >&2; exit 2; }
    done
}

# Without this the kernel divides the CPUs between terminals, and one with a compiler running takes half of ours.
go_before_others() {
    { echo -10 >/proc/self/autogroup; } 2>/dev/null || echo "$script: no autogroup priority (not root)" >&2
}

# The reference profile over HTTP/2 on 25 ports from $port on: exchange, admin port, DSPs.
profile_on_ports() {
    # shellcheck disable=SC2154  # theirs
    awk -v port="$port" '
        /^listen = / { print "listen = \"127.0.0.1:" port "\""; next }
        /^admin = / { print "admin = \"127.0.0.1:" port + 1 "\""; next }
        /^endpoint = / { dsp++; print "endpoint = \"http://127.0.0.1:" port + 1 + dsp "/bid\""; next }
        { print }' profiles/reference-h2.toml
}

# start NAME CORE COMMAND...: its pid is then the last of pids.
start() {
    local name=$1 core=$2
    shift 2
    taskset -c "$core" "$@" >"$scratch/$name.log" 2>&1 &
    pids+=($!)
}

listens() { # host:port
    (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null
}

# What was started last, by its name, listens on this host:port.
await_port() {
    for _ in $(seq 100); do
        kill -0 "${pids[-1]}" 2>/dev/null || break
        if listens "$1"; then return; fi
        sleep 0.1
    done
    echo "$script: $2 does not listen on $1:" >&2
    tail -5 "$scratch/$2.log" >&2
    exit 1
}

# await_ready ADMIN-URL LOG: the exchange that was started last is ready, or ends with its log.
await_ready() {
    for _ in $(seq 300); do
        [[ $(curl -s -o /dev/null -w '%{http_code}' "$1/readyz") != 200 ]] || break
        kill -0 "${pids[-1]}" 2>/dev/null || { tail -n 20 "$2" >&2; exit 1; }
        sleep 0.1
    done
}

# The process that has the sockets: $first, or the one that was handed to last, by the exchange's log in JSON.
main_pid() {
    local last
    last=$(grep -o '"to":[0-9]*' "$out/exchange.log" | tail -n 1 | cut -d: -f2)
    # shellcheck disable=SC2154  # theirs
    echo "${last:-$first}"
}

# Heirs are nobody's children here; and the first of them is among what was started.
stop_heirs_too() {
    [[ -z ${first-} ]] || kill "$(main_pid)" 2>/dev/null || true
    stop_all
}

# Of a run of $command, as a list.
conditions() {
    # shellcheck disable=SC2154  # theirs
    echo "- \`$command\`"
    echo "- corebid $(git rev-parse --short HEAD 2>/dev/null || echo '?'), $(date -u +%F)"
    echo "- $(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)"
}
