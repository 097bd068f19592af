# shellcheck shell=bash
# What tools/demo and tools/test share: looks for programs, installs the packages of those that are missing.
# Sourced, with the repository as working directory and a function `fail`.

# Root's PATH may lack the system programs and rustup's.
export PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"

# Packages whose program (or file) is not there.
missing=()
need() { # <package> <program or absolute path>
    case "$2" in
        /*) [ -e "$2" ] ;;
        *) command -v "$2" >/dev/null ;;
    esac || missing+=("$1")
}

# For the python3 that is found first, or that of the package.
need_python_module() { # <module>
    need python3 python3
    python3 -c "import $1" 2>/dev/null || missing+=("python3-$1")
}

# What the lab needs: namespaces, containers, traffic; and a linker for the build.
need_lab() {
    need iproute2 ip
    need iputils-ping ping
    need iputils-arping arping
    need iperf3 iperf3
    need busybox-static busybox
    need lxc lxc-start # with the template "busybox", from a package that it depends on
    need gcc cc
    need libc6-dev /usr/include/stdlib.h
}

# A kernel of the distribution for a virtual machine: fetched and unpacked, not installed. Older ones of the same name go.
fetch_kernel() { # <package that depends on the newest, such as linux-image-cloud-amd64>
    local home="${CARGO_TARGET_DIR:-target}/kernels/$1" image
    image=$(newest_image "$1")
    if [ -z "$image" ] && apt-get update -q >/dev/null 2>&1; then
        image=$(newest_image "$1")
    fi
    if [ -z "$image" ]; then
        echo "(no package $1 in apt; tests on its kernel are skipped)"
    elif [ ! -e "$home/$image" ]; then
        echo "Fetching $image ..."
        rm -rf "$home"
        if ! (mkdir -p "$home" && cd "$home" && apt-get download -q "$image" &&
            dpkg-deb -x "$image"_*.deb new && rm "$image"_*.deb && mv new "$image") >/dev/null 2>&1; then
            rm -rf "$home"
            echo "($image cannot be fetched; tests on it are skipped)"
        fi
    fi
}

newest_image() { # <package>
    apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

# The compiler must be as new as Cargo.toml asks for; those of Debian and Ubuntu often are not.
need_cargo() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if command -v cargo >/dev/null; then
        found=$(cargo --version | cut -d' ' -f2)
        new_enough "$wanted" "$found" || no_cargo "$wanted" "cargo $found"
    else
        found=$(apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: *//p')
        new_enough "$wanted" "$found" || no_cargo "$wanted" "no cargo (and ${found:-none} in apt)"
        missing+=(cargo)
    fi
}

new_enough() { # <wanted> <found>
    [ -n "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

no_cargo() { # <wanted> <what was found>
    fail "needs Rust $1 or newer, and finds $2. Install it with
    apt-get install -y curl && curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
and run this again, as the same user: root."
}

install_missing() {
    [ "${#missing[@]}" -gt 0 ] || return 0
    echo "Missing packages: ${missing[*]}"
    command -v apt-get >/dev/null || fail "no apt-get here; install the above yourself"
    local log
    log=$(mktemp)
    echo "Installing them with apt ..."
    apt-get update -q >"$log" 2>&1 || echo "(apt-get update failed; trying with the lists that are there)"
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt could not install: ${missing[*]}"
    fi
    rm -f "$log"
}
