# probe.sh - says what a board is: KEY=VALUE for each fact, with a NUL behind it. Makes our
# folder ($1 as of `place`), and leaves nothing else.
exec </dev/null
say() { printf '%s=%s\0' "$1" "$2"; }
text() { tr -d '\000' 2>/dev/null <"$1"; }
tree=/proc/device-tree
[ -r $tree/model ] && say model "$(text $tree/model)"
[ -r $tree/serial-number ] && say serial "$(text $tree/serial-number)"
[ -r $tree/system/linux,revision ] &&
    say revision "$(od -An -tx1 $tree/system/linux,revision 2>/dev/null | tr -d ' ')"
say machine "$(uname -m)"
say kernel "$(uname -r)"
say page "$(getconf PAGESIZE 2>/dev/null)"
say ram "$(awk '/^MemTotal/{print $2*1024}' /proc/meminfo)"
say available "$(awk '/^MemAvailable/{print $2*1024}' /proc/meminfo)"
say cgroup "$(cat /sys/fs/cgroup/memory.max 2>/dev/null)"
say throttled "$(vcgencmd get_throttled 2>/dev/null | cut -d= -f2)"
say clock "$(date +%s)"
seen=
for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    file=$(command -v "$p") || continue
    same=$(readlink -f "$file" 2>/dev/null) || same=$file
    case $seen in *":$same:"*) continue ;; esac # starting one takes a small board its time
    seen=$seen:$same:
    v=$("$p" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    say python "$p $v $(command -v "$p")"
done
place "$1"
say root "$root"
if mkdir -p -- "$root" 2>/dev/null && cd -P -- "$root" 2>/dev/null; then
    try=./.try.$$
    # programs can be run where a script can
    if { printf '#!/bin/sh\n' >"$try"; } 2>/dev/null && [ -s "$try" ]; then
        say writable yes
        chmod 700 "$try" 2>/dev/null
        "$try" 2>/dev/null || say noexec yes
    fi
    rm -f -- "$try" 2>/dev/null
    say free "$(df -Pk . 2>/dev/null | awk 'NR==2{print $4*1024}')"
    for p in ./?.pending; do
        [ ! -e "$p" ] || say pending yes
    done
    for p in ./runtime-*; do
        if is_runtime "${p#./}"; then say runtime "${p#./}"; fi
    done
fi
say end yes
