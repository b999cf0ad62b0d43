#!/bin/sh
# Lays out the file system of an image: a program and the shared libraries that it is linked to; for heddle-init also
# Debian's iptables, both of its back ends, with all extensions, since it reads rules that others wrote. No shell, no
# package manager, nothing else. Usage: images/rootfs.sh PROGRAM BINARY DIR
set -eu

program=$1 binary=$2 root=$3

main() {
    rm -rf "$root"
    mkdir -p "$root/usr/local/bin" "$root/etc"
    install -m 755 "$binary" "$root/usr/local/bin/$program"
    libraries "$binary"
    # Names are asked for as on any other machine.
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    if [ "$program" = heddle-init ]; then iptables; fi
    licences
    # Whatever the umask of who builds.
    chmod -R u=rwX,go=rX "$root"
}

iptables() {
    for back_end in nft legacy; do
        multi=/usr/sbin/xtables-$back_end-multi
        [ -x "$multi" ] || fail "$multi is missing: install Debian's package iptables"
        copy "$multi"
        libraries "$multi"
        for family in iptables ip6tables; do
            for verb in save restore; do
                ln -s "xtables-$back_end-multi" "$root/usr/sbin/$family-$back_end-$verb"
            done
        done
    done
    for extension in /usr/lib/*/xtables/*.so; do
        copy "$extension"
        libraries "$extension"
    done
}

# The loader and every library, at the paths where the loader looks.
libraries() {
    ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
        copy "$library"
    done
}

copy() {
    [ -e "$root$1" ] || { mkdir -p "$root$(dirname "$1")" && cp -L "$1" "$root$1"; }
}

# Of every Debian package that a file came from.
licences() {
    command -v dpkg-query >/dev/null || return 0
    (cd "$root" && find . -type f \( -name '*.so*' -o -name 'xtables-*' \)) | while read -r file; do
        path=${file#.}
        # Debian's /lib is a link to /usr/lib, and its database knows either.
        dpkg-query -S "$path" "/usr$path" "${path#/usr}" 2>/dev/null || true
    done | sed -n 's/^\([^:,]*\).*: .*/\1/p' | sort -u | while read -r package; do
        copy "/usr/share/doc/$package/copyright"
    done
}

fail() { echo "rootfs: error: $*" >&2; exit 1; }

main
