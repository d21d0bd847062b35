"""What runs on a machine, in POSIX sh (dash, busybox and bash know it), so that commands survive their caller.

Files of the command `ID`, in the folder `commands` of the machine's state:

- `ID.run`: the claim. Made with `set -C`, so that only one can make it: who makes it runs the command, and `kill` makes
  it (`killed`) when the command shall never run. With an `h` a manager holds the outputs in its hands and will put them
  into files, unless it dies (`HOLD`).
- `ID.pid`: `pid start time user`: of the command's process, and when it began, in ticks and in seconds. Times are the
  machine's uptime.
- `ID.out`, `ID.err`: what it wrote, up to the cap.
- `ID.n1`, `ID.n2`: bytes of each in all, with what is beyond the cap. A number stands there when the output is whole:
  when everything that holds it has closed it.
- `ID.exit`: `code time`, one line: whole when it ends in a newline. A manager that held the outputs adds one: bytes of
  each in all; then there is a file only of an output that is not empty.
- `ID.killed`: why it was killed, `kill` or `timeout`.
- `ID.in.N`: its input, until it ended.
- `ID.d`: the outputs of a command that did not end soon are being kept; while that is so (`HOLD`).
- `ID.u`: no manager will put its outputs into files any more (`HOLD`).
- `ID.gone`: it ran, and its files have been removed.

The command is a session and process group of its own, apart from the shells that keep its outputs and its exit code,
which are another session: what the command does to its own group does not hurt them. Nothing of a command is ever put
into the text of a script: all travels in arguments.

Where many files come and go the making of one can take a millisecond (ext4 looks at each inode that was freed in the
last seconds), so a short command makes three, and removes none.
"""

from __future__ import annotations

WAIT = 1
"""Seconds that `START` waits for a command's end, at most; text, since it stands in an argument."""

INLINE = 65536
"""Bytes of each output that `START` prints of a command that ended while it waited."""

# `now` sets rg_now; `status ID` prints what is known of a command, one line:
#   none | gone | starting | dead START NOW | run START NOW WHY | exit CODE START END NOW N1 N2 WHY
# (N1, N2: bytes of each output in all, `-` while something holds it open, `h` while it is on its way into the file).
# `late FILE`: a second and more after a command's end the `tee` of that output is not done, and does not wait for more
# either, as where a machine is so busy that it could not run yet; or it is not to be found, though its bytes were not
# told. For a while: it may have been killed. (`read` leaves out the NULs between arguments.)
# Builtins only: a process costs nearly a millisecond.
_COMMON = r"""
now() { read -r rg_now rg_x </proc/uptime || rg_now=$(date +%s); } 2>/dev/null
alive() {
    if [ -d /proc/self ]; then
        read -r rg_x <"/proc/$1/stat" || return 1
        rg_s=$2
        rg_x=${rg_x##*) }
        set -- $rg_x
        [ "${20}" = "$rg_s" ]
    else
        kill -0 "$1"
    fi
} 2>/dev/null
total() {
    rg_n=-
    [ ! -e "$1" ] || read -r rg_n <"$1" || rg_n=-
}
late() {
    rg_s=${rg_end%.*}
    case $rg_s in '' | *[!0-9]*) return 1 ;; esac
    rg_s=$((${rg_now%.*} - rg_s))
    [ -d /proc/self ] && [ $rg_s -ge 1 ] && [ $rg_s -lt 30 ] || return 1
    for rg_f in /proc/[0-9]*; do
        read -r rg_x <"$rg_f/comm" || continue
        case $rg_x in tee | busybox | exe | toybox | coreutils) ;; *) continue ;; esac
        rg_x=
        read -r rg_x <"$rg_f/cmdline"
        case $rg_x in "tee$1" | "tee-a$1") ;; *) continue ;; esac
        read -r rg_x <"$rg_f/stat" || continue
        case ${rg_x##*) } in S*) return 1 ;; *) return 0 ;; esac
    done
    [ $rg_s -lt 4 ]
} 2>/dev/null
status() {
    now
    rg_why=-
    [ ! -e "$1.killed" ] || read -r rg_why <"$1.killed" || rg_why=kill
    if [ -e "$1.gone" ]; then
        echo gone
    elif [ ! -e "$1.run" ]; then
        echo none
    elif read -r rg_x rg_h <"$1.run" && [ "$rg_x" = killed ]; then
        echo "exit 143 0 0 0 0 0 kill"
    elif [ ! -e "$1.pid" ] || ! read -r rg_pid rg_start rg_t rg_user <"$1.pid"; then
        echo starting
    elif [ -e "$1.exit" ] && { read -r rg_code rg_end && { read -r rg_n1 rg_n || rg_n=; }; } <"$1.exit"; then
        if [ -z "$rg_n" ]; then
            total "$1.n1"
            rg_n1=$rg_n
            total "$1.n2"
            if [ "$rg_h" = h ] && [ ! -e "$1.u" ]; then
                [ "$rg_n1" != - ] || rg_n1=h
                [ "$rg_n" != - ] || rg_n=h
            fi
            [ "$rg_n1" != - ] || ! late "$1.out" || rg_n1=h
            [ "$rg_n" != - ] || ! late "$1.err" || rg_n=h
        fi
        echo "exit $rg_code $rg_t $rg_end $rg_now $rg_n1 $rg_n $rg_why"
    elif alive "$rg_pid" "$rg_start"; then
        echo "run $rg_t $rg_now $rg_why"
    else
        echo "dead $rg_t $rg_now"
    fi
}
enter() {
    cd "$1/commands" 2>/dev/null && return
    mkdir -p "$1/commands" && cd "$1/commands" && { chmod 1777 . 2>/dev/null || :; }
}
"""

# A nested pipeline: the inner left end keeps the exit code of the command, the two right ends its outputs: `tee` writes
# at once what comes, and goes on when a limit cuts its file, so that `wc` counts all (`head` writes in blocks, and some
# read more than they write; `dd` counts blocks).
# The shell that runs the pipeline only waits for it and tells how it ended: it may be killed once the right end, which
# it makes last, has said that it is there.
_RUN = r"""
keep() {
    umask 077
    (
        trap '' XFSZ
        ulimit -f $(((rg_cap + 511) / 512))
        exec tee "$1" 2>/dev/null
    ) | wc -c >"$2" 2>/dev/null
}
rg_hold=
claim() {
    set -C
    { echo $$ $rg_hold >"$1.run"; } 2>/dev/null || {
        status "$1" 2>/dev/null
        return 1
    }
    set +C
    now
    rg_setsid=/usr/bin/setsid
    [ -x "$rg_setsid" ] || rg_setsid=$(command -v setsid)
}
become() {
    read -r rg_pid _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ rg_start rg_x </proc/self/stat ||
        rg_pid=$(exec sh -c 'echo $PPID')
    echo "$rg_pid ${rg_start:-0} $rg_now $rg_user" >"$rg_id.pid" || exit 125
    cd "$rg_dir" || exit 126
    while [ "$1" != -- ]; do
        export "$1"
        shift
    done
    shift
    exec $rg_setsid "$@"
}
run() {
    rg_id=$1 rg_cap=$2 rg_in=$3 rg_user=$4 rg_dir=$5 rg_ack=$6
    shift 6
    claim "$rg_id" || return 0
    exec 9>&1
    { {
        exec 7>&2 2>/dev/null
        [ -n "$rg_setsid" ] || set -m
        (
            exec 2>&7 7>&- 8>&- 9>&-
            become "$@"
        ) <"$rg_in"
        rg_code=$?
        now
        echo "$rg_code $rg_now" >"$rg_id.exit"
        [ "$rg_in" = /dev/null ] || rm -f "$rg_in"
    } 2>&1 1>&8 | keep "$rg_id.err" "$rg_id.n2" 8>&- 9>&-; } 8>&1 | {
        trap : PIPE
        [ -z "$rg_ack" ] || echo "started $$" >&9
        keep "$rg_id.out" "$rg_id.n1" 9>&-
    }
    status "$rg_id"
}
input() {
    rg_in=/dev/null
    [ "$2" != 0 ] || return 0
    rg_in=$1.in.$$
    (
        umask 077
        cat >"$rg_in"
    )
    rg_n=$(wc -c <"$rg_in")
    [ "$rg_n" -eq "$2" ] && return
    rm -f "$rg_in"
    echo "the input came incomplete" >&2
    exit 1
}
"""

HERE = (
    _COMMON
    + _RUN
    + r"""
enter "$1" || exit 1
shift
if [ -e "$1.run" ] || [ -e "$1.gone" ]; then
    status "$1"
    exit
fi
input "$1" "$3"
rg_1=$1 rg_2=$2 rg_4=$4 rg_5=$5
shift 5
run "$rg_1" "$rg_2" "$rg_in" "$rg_4" "$rg_5" "" "$@"
"""
)
"""Run a command in this shell, which is a session of its own and stays as long as the command does; print its status.

Arguments: state folder, id, cap (at least 1), bytes of its input, user, folder, NAME=VALUE …, --, program and its
arguments.
"""

HOLD = (
    _COMMON
    + _RUN
    + r"""
drain() {
    umask 077
    rg_n=0
    [ ! -e "$1" ] || rg_n=$(wc -c <"$1")
    rg_x=$(
        (
            trap '' XFSZ
            ulimit -f $(((rg_cap + 511) / 512))
            exec tee -a "$1" 2>/dev/null
        ) | wc -c
    )
    echo $((rg_n + rg_x)) >"$2"
}
exec 3<&1 6<&2 7<&0 </dev/null 2>&1
enter "$1" || exit 1
shift
if [ -e "$1.run" ] || [ -e "$1.gone" ]; then
    status "$1"
    exit
fi
exec 8>/proc/self/fd/7 9>/proc/self/fd/6
rg_id=$1 rg_cap=$2 rg_user=$4 rg_dir=$5 rg_hold=h
shift 5
claim "$rg_id" || exit 0
exec 2>/dev/null
(
    exec >/dev/null 8>&- 9>&-
    read -r rg_x <&3 && exit
    : >"$rg_id.d"
    exec 3<&-
    drain "$rg_id.out" "$rg_id.n1" <&7 6<&- 7<&- &
    rg_1=$!
    drain "$rg_id.err" "$rg_id.n2" <&6 6<&- 7<&- &
    rg_2=$!
    exec 6<&- 7<&-
    (
        (cd / && exec sleep 1)
        : >"$rg_id.u"
    ) &
    wait $rg_1 $rg_2
    rm -f "$rg_id.d"
) &
(become "$@") >&8 2>&9 3<&- 6<&- 7<&- 8>&- 9>&-
rg_code=$?
exec 8>&- 9>&-
now
echo "$rg_code $rg_now" >"$rg_id.exit"
[ ! -e "$rg_id.d" ] || wait
printf +
status "$rg_id"
"""
)
"""As `HERE`, of a command without input: its outputs are left in pipes, for the caller to take, until it shuts down the
other end of the shell's output, which is a socket. A `+` before the status says that it ran here, not elsewhere before.

Its input and its own stderr are the reading ends of the pipes. A line to its output says that the outputs were taken.
Arguments: as for `HERE`.
"""

_DETACHED = _COMMON + _RUN + 'run "$@"\n'

START = (
    _COMMON
    + _RUN
    + r"""
rg_wait=$1
rg_text=$2
enter "$3" || exit 1
shift 3
rg_id=$1
if [ ! -e "$1.run" ] && [ ! -e "$1.gone" ]; then
    input "$1" "$3"
    rg_2=$2 rg_4=$4 rg_5=$5
    shift 5
    rg_setsid=/usr/bin/setsid
    [ -x "$rg_setsid" ] || rg_setsid=$(command -v setsid)
    exec 4>&2 2>/dev/null
    {
        if [ "$rg_wait" != 0 ]; then
            (
                exec 4>&-
                sleep "$rg_wait"
                echo late
            ) &
        fi
        [ -n "$rg_setsid" ] || set -m
        exec $rg_setsid sh -c "$rg_text" sh "$rg_id" "$rg_2" "$rg_in" "$rg_4" "$rg_5" 1 "$@" </dev/null 4>&-
    } | {
        rg_late=$rg_wait rg_pid=
        while read -r rg_x rg_y; do
            case $rg_x in
            started) rg_pid=$rg_y ;;
            late) rg_late=0 ;;
            *) exit ;;
            esac
            [ -z "$rg_pid" ] || [ "$rg_late" != 0 ] || break
        done
        [ -z "$rg_pid" ] || kill -KILL "$rg_pid"
    }
    exec 2>&4 4>&-
fi
rg_x=$(status "$rg_id")
echo "$rg_x"
case $rg_x in exit*)
    [ ! -s "$rg_id.out" ] || head -c 65536 "$rg_id.out"
    [ ! -s "$rg_id.err" ] || head -c 65536 "$rg_id.err" >&2
    ;;
esac
exit 0
"""
)
"""Start a command, detached; print its status, and its outputs' beginnings when it ended meanwhile.

Arguments: seconds to wait for its end (0: none), the text to run detached, then as for `HERE`.
"""

DETACHED = _DETACHED
"""The text to run detached."""

POLL = (
    _COMMON
    + r"""
cd "$1/commands" || exit 1
shift
for rg_id; do
    rg_a=- rg_b=-
    case $rg_id in +*)
        rg_id=${rg_id#+}
        [ ! -e "$rg_id.out" ] || rg_a=$(wc -c <"$rg_id.out")
        [ ! -e "$rg_id.err" ] || rg_b=$(wc -c <"$rg_id.err")
        ;;
    esac
    rg_x=$(status "$rg_id")
    echo $rg_a $rg_b $rg_x
done
"""
)
"""Print sizes of the outputs (`-`: not looked at) and the status of commands, a line each.

Arguments: state folder, ids; one with `+` before it wants the sizes.
"""

KILL = (
    _COMMON
    + r"""
enter "$1" || exit 1
if [ ! -e "$2.run" ] && [ ! -e "$2.gone" ]; then
    (
        umask 022
        set -C
        echo killed >"$2.run"
    ) 2>/dev/null
fi
if [ -e "$2.gone" ] || { read -r rg_x <"$2.run" && [ "$rg_x" = killed ]; }; then
    echo "left 0"
    exit
fi
if [ ! -e "$2.pid" ] || ! read -r rg_pid rg_start rg_x rg_user <"$2.pid"; then
    echo starting
    exit
fi
if [ -e "/proc/$rg_pid/stat" ] && ! alive "$rg_pid" "$rg_start"; then
    echo "left 0"
    exit
fi
if [ -e "/proc/$rg_pid/stat" ] && ! kill -0 "$rg_pid" 2>/dev/null && alive "$rg_pid" "$rg_start"; then
    echo "denied $rg_user"
    exit
fi
[ "$3" = 0 ] || [ -e "$2.exit" ] || [ -e "$2.killed" ] || echo "$4" >"$2.killed"
rg_left=0
rg_others=
for rg_f in /proc/[0-9]*/stat; do
    read -r rg_x <"$rg_f" || continue
    rg_f=${rg_f#/proc/}
    rg_x=${rg_x##*) }
    set -- "$1" "$2" "$3" $rg_x
    [ "$4" != Z ] || continue
    if [ "$6" = "$rg_pid" ]; then
        rg_left=$((rg_left + 1))
    elif [ "$7" = "$rg_pid" ]; then
        rg_left=$((rg_left + 1))
        rg_others="$rg_others ${rg_f%/stat}"
    fi
done 2>/dev/null
[ -d /proc/self ] || ! kill -0 -- "-$rg_pid" 2>/dev/null || rg_left=1
if [ "$3" != 0 ] && [ "$rg_left" != 0 ]; then
    kill -s "$3" -- "-$rg_pid" $rg_others 2>/dev/null
fi
echo "left $rg_left"
"""
)
"""Send a signal to all of a command's processes, and print how many there were; one not started yet never will be.

Arguments: state folder, id, signal (0: none), why.
Prints `left N`, `starting`, or `denied USER`: only that user may.
"""

PRUNE = (
    _COMMON
    + r"""
cd "$1/commands" 2>/dev/null || exit 0
rg_older=$2
now
rg_now=${rg_now%.*}
set --
for rg_f in *.exit; do
    rg_id=${rg_f%.exit}
    read -r rg_code rg_end <"$rg_f" 2>/dev/null || continue
    rg_end=${rg_end%.*}
    [ "$rg_end" -le "$rg_now" ] || rg_end=0
    [ $((rg_now - rg_end)) -ge "$rg_older" ] || continue
    if [ ! -w "$rg_f" ]; then
        read -r rg_x rg_x rg_x rg_user <"$rg_id.pid" && echo "denied $rg_user"
        continue
    fi
    (umask 022; : >"$rg_id.gone") || continue
    set -- "$@" "$rg_id.out" "$rg_id.err" "$rg_id.n1" "$rg_id.n2" "$rg_id.d" "$rg_id.u"
    set -- "$@" "$rg_id.killed" "$rg_id.exit" "$rg_id.pid" "$rg_id.run"
    if [ $# -ge 1800 ]; then
        rm -f "$@"
        set --
    fi
done
[ $# = 0 ] || rm -f "$@"
"""
)
"""Remove what is kept of commands that ended at least so many seconds ago; prints `denied USER` for those of others.

Arguments: state folder, seconds (an integer).
"""
