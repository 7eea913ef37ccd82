# install.sh - unpacks the runtime's wheel, which standard input is, into a folder of ours.
# Deletes nothing but folders that this script made: half-finished ones whose process is gone,
# and all but the last used of the finished ones.
# $1 as of `place`, $2 the folder's name, $3 Python, $4 the wheel's SHA-256, $5 a token that is
# this call's alone, $6 how many runtimes stay, $7 a file: what it names stays, too
set -eu
place "$1"
name=$2 python=$3 digest=$4 keep=$6 unit=$7
new=./$name.$$.$5.new
mkdir -p -- "$root"
cd -P -- "$root"
trap 'rm -rf -- "$new"' EXIT
# mksh leaves EXIT's out where a signal's comes while `set -e` ends the script
trap 'rm -rf -- "$new"; exit 1' HUP INT TERM PIPE
for old in ./runtime-*.new; do
    if is_unfinished "${old#./}" && [ -n "$(find "$old" -prune -mmin +60 2>/dev/null)" ]; then
        process=${old#./*.}
        [ -d "/proc/${process%%.*}" ] || rm -rf -- "$old"
    fi
done
mkdir -- "$new"
cat >"$new/wheel.zip"
"$python" -I -S -c '
import hashlib, sys, zipfile
path, digest, place = sys.argv[1:]
with open(path, "rb") as file:
    if hashlib.sha256(file.read()).hexdigest() != digest:
        sys.exit("it did not arrive whole")
with zipfile.ZipFile(path) as packed:
    packed.extractall(place)
' "$new/wheel.zip" "$digest" "$new"
rm -f -- "$new/wheel.zip"
if [ "$1" != home ]; then # for other users, who cannot write here
    chmod -R u=rwX,go=rX "$new"
    "$python" -I -m compileall -q "$new" >/dev/null || true
fi
sync
# a rename that never goes into a folder that is there, which mv is not everywhere
"$python" -I -S -c 'import os, sys; os.rename(*sys.argv[1:])' "$new" "./$name" 2>/dev/null ||
    [ -d "./$name" ]
sync
set --
for old in ./runtime-*; do
    if is_runtime "${old#./}"; then set -- "$@" "$old"; fi
done
# shellcheck disable=SC2012  # the names are digits: nothing in them for ls to hide
ls -dt -- "$@" | tail -n "+$((keep + 1))" | while read -r old; do
    old=${old#./}
    [ "$old" = "$name" ] || grep -qsF -- "$old" "$unit" || rm -rf -- "./$old"
done
