# shellcheck shell=sh
# place.sh - the folder on a board that is ours: where it lies, and what in it may be deleted.
# Precedes every other script here. It deletes nothing by itself, and prints no path: a board's
# paths stay on the board.

# Sets `root`. $1: `home`, which is a folder in the user's own data, or a folder's full path.
# shellcheck disable=SC2034  # for the script that follows
place() {
    case $1 in
    home)
        case ${XDG_DATA_HOME-} in
        /*) root=$XDG_DATA_HOME/qedge ;;
        *) # what is not a full path is to be ignored: XDG Base Directory Specification
            case ${HOME-} in
            /*) root=$HOME/.local/share/qedge ;;
            *)
                echo "HOME is not a full path on the board: set XDG_DATA_HOME there" >&2
                exit 65
                ;;
            esac
            ;;
        esac
        ;;
    /*) root=$1 ;;
    *) exit 64 ;;
    esac
}

# Whether $1 is the name of a runtime that `install` made: runtime-, and 16 hexadecimal digits.
is_runtime() {
    case $1 in
    runtime-*[!0-9a-f]*) return 1 ;;
    runtime-????????????????) [ -d "./$1" ] && [ ! -L "./$1" ] ;;
    *) return 1 ;;
    esac
}

# The same for a runtime that was not finished: its name, process and token, and `new`.
is_unfinished() {
    case $1 in
    runtime-????????????????.*[!0-9a-f.]*.new) return 1 ;;
    runtime-????????????????.*.*.new) ;;
    *) return 1 ;;
    esac
    case ${1%%.*} in
    runtime-*[!0-9a-f]*) return 1 ;;
    esac
    [ -d "./$1" ] && [ ! -L "./$1" ]
}
