"""POSIX sh programs that run on hosts which are reached over SSH: nothing needs to be installed there.

Each is for `sh -c SCRIPT regrow ARGUMENTS…`, so no argument is ever part of a program. They may be run again after they
were cut off anywhere: what is made is made beside its place and moved there whole.

On a host: `~/.regrow/machines/<id>/work` (the workdir, unless the image names one), `…/<id>/state` (what
commands wrote), `…/<id>/elevated` (a command ran as another user), `~/.regrow/snapshots/<id>` (a copy of a workdir).
"""

from __future__ import annotations

import re
import shlex

GONE = 121
"""Exit code of `RUN` when the machine is not there."""

NOT_FOUND, IS_DIRECTORY, DENIED, OUTSIDE, NO_FILE = 66, 67, 68, 69, 70
"""Exit codes of `WRITE` and `READ`."""

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
"""Ids that are used as names of folders."""

RUN = """
[ -d "$1/state" ] || { echo "regrow: no machine $1" >&2; exit 121; }
[ -z "$4" ] || [ -e "$1/elevated" ] || : > "$1/elevated"
cd "$2" 2>/dev/null || cd "$1"
export REGROW_MACHINE="$3"
shift 4
exec "$@"
"""
"""Arguments: folder, workdir, id, `1` for another user's program, program…."""

_COPY = """
copy() {  # source and target, a folder that appears whole
  if [ -d "$2" ]; then return; fi
  case $2/ in
    "$1"/*) echo "$1 holds the folder of the machines itself" >&2; exit 65 ;;
  esac
  part=$2.part.$$
  flags=-a
  if cp --help 2>&1 | grep -q -e --reflink; then flags="-a --reflink=auto"; fi
  for attempt in 1 2 3; do  # a file that goes away meanwhile is an error of cp's
    rm -rf "$part"
    mkdir -p "$part"
    if cp $flags "$1/." "$part/"; then break; fi
    if [ "$attempt" = 3 ]; then rm -rf "$part"; exit 1; fi
  done
  mv -T "$part" "$2" 2>/dev/null || { if [ -d "$2" ]; then rm -rf "$part"; else mv "$part" "$2"; fi; }
}
"""

SPAWN = (
    "set -eu\n"
    + _COPY
    + """
umask 022
[ -z "$4" ] || HOME=$4
login=${5:-$(id -un)}
base=$HOME/.regrow/machines
if [ ! -d "$HOME/.regrow" ]; then  # it may be there for other things, and closed
  mkdir -p "$HOME/.regrow"
  chmod 711 "$HOME/.regrow"
fi
mkdir -p "$base"
chmod 711 "$base"
folder=$base/$1
work=$2
source=$3
case $work in
  '') work=$folder/work ;;
  /*) ;;
  '~') work=$HOME ;;
  '~/'*) work=$HOME/${work#'~/'} ;;
  *) work=$HOME/$work ;;
esac
mkdir -p "$folder"
chmod 711 "$folder"
physical=$(cd "$folder" && pwd -P)
if [ "$work" = "$folder/work" ]; then work=$physical/work; fi
folder=$physical
if [ -n "$source" ]; then
  [ -d "$source" ] || { echo "regrow: no snapshot $source" >&2; exit 66; }
  copy "$source" "$work"
fi
mkdir -p "$work"
if [ ! -d "$folder/state/commands" ]; then
  mkdir -p "$folder/state/commands"
  chmod 1777 "$folder/state/commands"  # commands of all users keep their output there
fi
if [ -n "$5" ]; then
  chown -R "$login" "$folder/state"
  chown "$login" "$folder"
  : > "$folder/elevated"
fi
real=$(cd "$work" && pwd -P)
printf '%s\\n' "$folder" "$work" "$real" "$login" "$(id -u "$login")"
"""
)
"""Arguments: id, workdir (empty: one of its own), folder to copy it from (empty: none), and when another user runs it
since the copy needs that: home and name of the login. Prints folder, workdir, real workdir, login and its number."""

SNAPSHOT = (
    "set -eu\n"
    + _COPY
    + """
umask 077
mkdir -p "$3/snapshots"
copy "$1" "$3/snapshots/$2"
printf '%s\\n' "$3/snapshots/$2"
"""
)
"""Arguments: real workdir, id of the snapshot, folder of all. Prints the snapshot's folder."""

DROP = """
rm -rf -- "$1" "$1".part.* && exit
chmod -R u+rwX -- "$1" && rm -rf -- "$1" "$1".part.*
"""
"""Argument: the snapshot's folder."""

STOP = """
folder=$1 id=$2
alive() {  # pid and when it was started, since pids are used again
  if [ -d /proc/self ]; then
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    was=$2
    set -- ${stat##*) }
    [ "${20}" = "$was" ]
  else
    kill -0 "$1" 2>/dev/null
  fi
}
running() {
  for pid in $(grep "$match" "REGROW_MACHINE=$id" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do
    [ "$pid" = $$ ] || echo "$pid"
  done
  for file in "$folder"/state/commands/*.pid; do  # of commands that cleared their environment
    if [ -s "$file" ] && [ ! -e "${file%.pid}.exit" ] && read -r pid start rest <"$file" && alive "$pid" "$start"; then
      echo "-$pid"
    fi
  done
}
match=-lF  # busybox may not know records that end in NUL
if printf 'x\\0' | grep -qzxF x 2>/dev/null; then match=-lzxF; fi
term=TERM
rounds=0
while pids=$(running); [ -n "$pids" ] && [ "$rounds" -lt 150 ]; do
  [ "$rounds" -lt 50 ] || term=KILL
  kill -"$term" $pids 2>/dev/null
  [ "$term" = KILL ] || [ "$rounds" -gt 0 ] || term=CONT
  rounds=$((rounds + 1))
  sleep 0.1
done
[ -z "$pids" ] || { echo "regrow: still running: $pids" >&2; exit 1; }
rm -rf -- "$folder" 2>/dev/null && exit
chmod -R u+rwX -- "$folder" 2>/dev/null
rm -rf -- "$folder"
"""
"""Arguments: folder, id. Ends the machine's processes (TERM, KILL after five seconds), then removes its folder."""

_INSIDE = """
inside() {
  case $1/ in
    "$2"/*) ;;
    *) exit 69 ;;
  esac
}
"""

WRITE = (
    "set -u\n"
    + _INSIDE
    + """
path=$1 root=$2 mode=$3
above=$path
while [ ! -e "$above" ] && [ ! -L "$above" ]; do above=$(dirname -- "$above"); done
if [ "$above" = "$path" ]; then
  path=$(readlink -f -- "$path") || exit 69
  inside "$path" "$root"
else
  inside "$(cd "$above" 2>/dev/null && pwd -P)" "$root"
  mkdir -p -- "$(dirname -- "$path")" || exit 68
  path=$(cd "$(dirname -- "$path")" && pwd -P)/$(basename -- "$path") || exit 68
fi
[ ! -d "$path" ] || exit 67
part=$(dirname -- "$path")/.regrow.part.$$
cat > "$part" || { rm -f -- "$part"; exit 68; }
if [ -n "$mode" ]; then chmod "$mode" "$part"
elif [ -f "$path" ]; then chmod --reference="$path" "$part" 2>/dev/null; fi
mv -f -- "$part" "$path" || { rm -f -- "$part"; exit 68; }
"""
)
"""Arguments: path, real root, octal mode or empty. Its input is the file; for users other than the login."""

READ = (
    "set -u\n"
    + _INSIDE
    + """
[ -e "$1" ] || exit 66
path=$(readlink -f -- "$1") || exit 66
inside "$path" "$2"
[ ! -d "$path" ] || exit 67
[ -f "$path" ] || exit 70
[ -r "$path" ] || exit 68
if [ -n "$4" ]; then tail -c +$(($3 + 1)) -- "$path" | head -c "$4"; else tail -c +$(($3 + 1)) -- "$path"; fi
"""
)
"""Arguments: path, real root, offset, limit or empty. Its output is the file; for users other than the login."""


def sh(script: str, *arguments: str, before: tuple[str, ...] = ()) -> str:
    """A command line of a server's shell that runs a script; `before` is a program that runs it."""
    return "exec " + shlex.join([*before, "sh", "-c", script, "regrow", *arguments])
