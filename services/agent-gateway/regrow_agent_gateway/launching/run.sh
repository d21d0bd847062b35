#!/bin/sh
# Runs an agent's harness in a terminal of its own, and leaves nothing behind.
#
#   sh run.sh           from the machine's workdir: starts the terminal, waits until the harness has ended, prints what
#                       it showed last and exits with its exit code. TERM ends it all.
#   sh run.sh keep      (its own) ends all when whoever holds the other end of its input has gone, be it by KILL.
#   sh run.sh window    (its own) in the terminal: the harness, that is `sh program`.
#
# All that the harness starts carries REGROW_AGENT_MARK, by which those are found that left its group and session.
# In this file's folder: program, tmux.sock; of session N: exit.N, last.N (end of its screen), life.N (FIFO).
set -u

id=${REGROW_AGENT_ID:?} session=${REGROW_AGENT_SESSION:?}
here=$(dirname "$0")
folder=$(cd "$here" && pwd -P) || exit 1

# By its short name: a socket's path is at most 107 bytes long.
terminal() { (cd "$folder" && exec tmux -u -S tmux.sock "$@"); }

# marked MARK: sets rg_found to the processes that carry the mark, those of groups and sessions which they lead, and
# their children, whatever these have done to their variables.
marked() {
    rg_found=" "
    for rg_f in $(grep -lszF "REGROW_AGENT_MARK=$1" /proc/[0-9]*/environ); do
        rg_f=${rg_f#/proc/}
        rg_found="$rg_found${rg_f%/environ} "
    done
    rg_more=$rg_found
    while [ "$rg_more" != " " ]; do
        rg_more=" "
        for rg_f in /proc/[0-9]*/stat; do
            read -r rg_line <"$rg_f" || continue
            rg_f=${rg_f#/proc/}
            rg_f=${rg_f%/stat}
            case $rg_found in *" $rg_f "*) continue ;; esac
            # shellcheck disable=SC2086  # words: state, parent, group, session
            set -- ${rg_line##*) }
            [ "$1" != Z ] && [ "$rg_f" != $$ ] || continue
            case $rg_found in *" $2 "* | *" $3 "* | *" $4 "*) rg_more="$rg_more$rg_f " ;; esac
        done
        rg_found="$rg_found${rg_more# }"
    done
} 2>/dev/null

# sweep MARK: TERM, and KILL to what has not ended after two seconds; until nothing is left.
sweep() {
    rg_told=" " rg_round=0
    [ -d /proc/self ] || elsewhere
    while marked "$1"; [ "$rg_found" != " " ] && [ $rg_round -lt 100 ]; do
        for rg_pid in $rg_found; do
            if [ $rg_round -ge 40 ]; then
                kill -s KILL "$rg_pid"
            else
                case $rg_told in *" $rg_pid "*) ;; *) kill -s TERM "$rg_pid" ;; esac
            fi
        done 2>/dev/null
        rg_told=$rg_told$rg_found
        rg_round=$((rg_round + 1))
        sleep 0.05 2>/dev/null || sleep 1
    done
}

# Where there is no /proc, the terminal and the harness's own group are all that can be found.
elsewhere() {
    terminal kill-server
    [ ! -s "$folder/pid" ] || kill -s KILL -- "-$(cat "$folder/pid")"
} 2>/dev/null

keep() {
    trap '' HUP INT
    trap 'sweep "$id.$session."; exit' TERM
    read -r rg_x
    sweep "$id.$session."
}

window() {
    trap : HUP INT QUIT TERM # a person's Ctrl-C is for the harness
    echo $$ >"$folder/pid"
    unset TMUX TMUX_PANE
    sh "$folder/program"
    code=$?
    terminal capture-pane -p -S -200 -t agent >"$folder/last.$session" 2>/dev/null
    echo $code >"$folder/exit.$session"
    terminal wait-for -S ended
}

# end CODE: of the harness, where it has not said one itself.
end() {
    trap '' HUP INT TERM
    exec 3>&-
    [ -z "$keeper" ] || wait "$keeper"
    sweep "$id.$session." # for a keeper that was killed
    code=$1
    [ ! -s "$folder/exit.$session" ] || read -r code <"$folder/exit.$session"
    [ ! -s "$folder/last.$session" ] || grep . "$folder/last.$session" | tail -n 40
    rm -f "$folder/life.$session"
    exit "$code"
}

run() {
    command -v tmux >/dev/null || {
        echo "tmux is not installed on this machine; agents run in terminals of it" >&2
        exit 127
    }
    keeper=
    trap 'end 143' HUP INT TERM
    sweep "$id." # of a session whose end nobody saw
    rm -f "$folder"/exit.* "$folder"/last.* "$folder"/life.* "$folder/tmux.sock"
    umask 077
    mkfifo "$folder/life.$session" && exec 3<>"$folder/life.$session" || exit 1
    setsid=$(command -v setsid)
    $setsid sh "$0" keep <"$folder/life.$session" >/dev/null 2>&1 3>&- &
    keeper=$!
    # Nobody else may hold the FIFO, nor this shell for them: hence `exec` in subshells.
    (
        exec 3>&-
        export REGROW_AGENT_MARK="$id.$session." REGROW_AGENT_FOLDER="$folder"
        terminal -f /dev/null set-option -g history-limit 20000 \; set-option -s escape-time 10 \; \
            new-session -d -s agent -x 200 -y 50 -c "$1" sh "$folder/run.sh" window
    ) || end 125
    (
        exec 3>&- >/dev/null 2>&1
        terminal wait-for ended
    ) &
    wait $!
    end 137
}

case ${1-run} in
keep) keep ;;
window) window ;;
run) run "$PWD" ;;
esac
