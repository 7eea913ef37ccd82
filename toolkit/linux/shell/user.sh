# user.sh - makes the service's user, and the folders of its images and runtimes. For root.
# $1 the user, $2 the images' folder, $3 the runtimes', which root starts: only root may write it
set -eu
command -v systemctl >/dev/null 2>&1 || exit 71
id "$1" >/dev/null 2>&1 ||
    useradd --system --user-group --home-dir "$2" --shell /usr/sbin/nologin "$1"
usermod -aG dialout "$1" 2>/dev/null || true
mkdir -p -- "$2"
chown "$1:$1" "$2"
chmod 750 "$2"
umask 022
mkdir -p -- "$3"
for folder in "${3%/*}/" "$3"; do
    # shellcheck disable=SC2012,SC2046  # its first words: the mode, the links, the owner
    set -- "$folder" $(ls -ldn -- "$folder")
    case "$2 $4" in
    d????-??-?*" 0") ;;
    *)
        echo "$1 is not a folder that only root may write" >&2
        exit 73
        ;;
    esac
done
