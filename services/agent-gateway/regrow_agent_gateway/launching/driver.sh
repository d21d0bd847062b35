#!/bin/sh
# Feeds a harness that has no door of its own with messages, turn by turn: `sh driver.sh`, as its `program`.
#
# Messages are the files of the folder `spool`, each named by its sequence (20 digits), written whole; the channel
# `spool` of the terminal tells that there is one. For each, in their order, once: `sh turn FILE NUMBER`, which runs one
# turn of the harness with the text in FILE; NUMBER counts the turns of this agent, from 1, over all its sessions.
# A turn that was cut off comes again after a restart, its text begun with a line that says so. A turn that fails ends
# the driver with its exit code; 130 (a person's Ctrl-C) only ends the turn.
#
# In the spool: `done`, the last message whose turn has ended; `begun`, the one whose turn began last; `turns`, how many;
# `.bell`, a FIFO: each line in it is a reason to look.
set -u
trap : INT
folder=${REGROW_AGENT_FOLDER:?}
spool=$folder/spool
mkdir -p "$spool" || exit 1

kept() {
    rg_kept=0
    [ ! -s "$spool/$1" ] || read -r rg_kept <"$spool/$1"
}
keep() { echo "$2" >"$spool/.$1" && mv -f "$spool/.$1" "$spool/$1"; }

# Sets rg_next to the first message that is still to come, if there is one.
look() {
    kept done
    rg_next=
    for rg_f in "$spool"/[0-9]*; do
        [ -f "$rg_f" ] || continue
        rg_f=${rg_f##*/}
        if [ "$(expr "x$rg_f" \> "x$rg_kept")" = 1 ]; then
            rg_next=$rg_f
            return 0
        fi
        rm -f "$spool/$rg_f" # of a command that was given twice
    done
    return 1
}

turn() {
    kept begun
    text=$spool/.text
    if [ "$rg_kept" = "$1" ]; then
        echo "[You were stopped while you worked on this, and started again. Go on where you were.]" >"$text"
        echo >>"$text"
        cat "$spool/$1" >>"$text"
    else
        cat "$spool/$1" >"$text"
    fi || return 1
    keep begun "$1"
    kept turns
    number=$((rg_kept + 1))
    keep turns $number
    echo
    echo "> $(head -n 1 "$text" | cut -c 1-160)"
    sh "$folder/turn" "$text" $number
    code=$?
    [ $code -eq 0 ] || [ $code -eq 130 ] || return $code
    keep done "$1"
    rm -f "$spool/$1"
}

# Two signals of a channel that nobody waits for at that moment cancel each other (tmux keeps one bit, and the second
# takes it away): so after each signal, as at the start, it is looked again a little later, and now and then without any.
later() {
    sleep 0.5 && echo && sleep 4 && echo
}
tick() {
    while sleep 10; do echo; done
}
ring() {
    while :; do
        (cd "$folder" && exec tmux -S tmux.sock wait-for spool) || sleep 1
        echo
        later &
    done
}

rm -f "$spool/.bell"
mkfifo "$spool/.bell" && exec 4<>"$spool/.bell" || exit 1
later >&4 &
tick >&4 &
ring >&4 &
while :; do
    while look; do
        turn "$rg_next" 4>&- || exit
    done
    read -r rg_x <&4
done
