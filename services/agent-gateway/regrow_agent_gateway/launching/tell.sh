# What a turn-based harness's scripts share; to be sourced by them. Needs curl, and nothing else but POSIX.
#
# `begin` greets the gateway. A `turn` defines `harness`, which runs one turn (the message on its input, what it tells as
# lines of JSON on its output), and `worth`, which says whether the gateway is to hear a line; then it calls `take`.
set -u
folder=${REGROW_AGENT_FOLDER:?}

# tell PATH ARG…: a request to the agent's doors, made again for as long as the gateway is away; its answer is in `.told`.
tell() {
    rg_path=$1 rg_tries=0 rg_failed=0
    shift
    while [ $rg_failed -lt 3 ]; do
        : >"$folder/.told" # an empty answer leaves a file as it is
        rg_status=$(curl -q -sS -K "$folder/curl.conf" -o "$folder/.told" -w '%{http_code}' --max-time 30 "$@" \
            "$REGROW_AGENT_URL/$rg_path" 2>"$folder/.why") || rg_status=000
        case $rg_status in
        2*) return 0 ;;
        000 | 429 | 502 | 503 | 504) ;;
        500) rg_failed=$((rg_failed + 1)) ;;
        *) break ;;
        esac
        rg_tries=$((rg_tries + 1))
        [ $rg_tries -ne 10 ] || echo "waiting for the gateway: $rg_status $(cat "$folder/.why")" >&2
        if [ $rg_tries -gt 10 ]; then sleep 1; else sleep 0.2 2>/dev/null || sleep 1; fi
    done
    echo "the gateway refuses ($rg_status): $(head -c 400 "$folder/.told" 2>/dev/null)" >&2
    return 1
}

state() {
    tell entries -H 'Content-Type: application/json' \
        -d "{\"type\":\"turn\",\"id\":\"$REGROW_AGENT_SESSION.$number.$1\",\"data\":{\"state\":\"$1\"}}"
}

# begin PROGRAM HOW: is all there, and may this session be?
begin() {
    command -v curl >/dev/null || {
        echo "curl is not installed on this machine; it is how an agent's driver speaks with the gateway" >&2
        exit 127
    }
    command -v "$1" >/dev/null || {
        echo "$1 is not installed on this machine, or not on its PATH: $2" >&2
        exit 127
    }
    tell tools || exit 1
}

# take FILE NUMBER: one turn. The gateway makes entries of what the harness tells, and answers with what a person reads.
take() {
    number=$2
    cat "$1" >"$folder/.message" || exit 1
    if [ -f "$folder/.turn" ]; then # the last one was cut off, perhaps in the middle of a call
        tell output || exit 1
        [ ! -s "$folder/.told" ] || { echo && echo && cat "$folder/.told"; } >>"$folder/.message"
    fi
    : >"$folder/.turn"
    state started || exit 1
    rm -f "$folder/.code"
    trap : INT # a person's Ctrl-C is for the harness
    {
        harness <"$folder/.message"
        echo $? >"$folder/.code"
    } | {
        trap : INT
        rg_n=0
        while IFS= read -r line || [ -n "$line" ]; do
            worth || continue
            rg_n=$((rg_n + 1))
            printf '%s\n' "$line" >"$folder/.line"
            tell "output?id=$REGROW_AGENT_SESSION.$number.$rg_n" -H 'Content-Type: application/json' \
                --data-binary "@$folder/.line" && cat "$folder/.told"
        done
    }
    code=130
    [ ! -s "$folder/.code" ] || read -r code <"$folder/.code"
    case $code in
    0 | 130) # done, or broken off by a person
        state ended || exit 1
        rm -f "$folder/.turn"
        ;;
    esac
    exit "$code"
}

# What a harness calls its conversation, once it has said so.
conversation() { [ ! -s "$folder/conversation" ] || cat "$folder/conversation"; }
keep_conversation() { [ -z "$1" ] || { echo "$1" >"$folder/.conversation" && mv -f "$folder/.conversation" "$folder/conversation"; }; }
