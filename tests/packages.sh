#!/bin/sh
# The Debian packages that the tests need: installed when root, named otherwise.
set -e
needed="gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross gcc-arm-linux-gnueabi libc6-dev-armel-cross qemu-user gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm qemu-utils e2fsprogs openssh-client openssh-server busybox zsh ksh mksh fish tcsh cppcheck"
missing=""
for name in $needed; do
    dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing="$missing $name"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # the tests start a server of ssh of their own; this machine is not to have one for that
    guard=/usr/sbin/policy-rc.d
    if [ ! -e "$guard" ]; then
        trap 'rm -f "$guard"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$guard"
        chmod 755 "$guard"
    fi
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
    case " $missing " in
    *" openssh-server "*) systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true ;;
    esac
    exit 0
fi
echo "The tests also need these Debian packages:$missing" >&2
echo "Install them with: sudo apt-get install$missing" >&2
exit 1
