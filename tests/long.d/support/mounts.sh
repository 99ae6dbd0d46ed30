# Sourced by the trials of mounts: what they need, and the namespaces they run in.

support="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
TOOLS="${CAIRN_TOOLS:-$HOME/.cache/cairn/tools}"
export TOOLS

# need COMMAND:PACKAGE...: installs what is missing.
need() {
    local pair missing=()
    for pair in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
    done
    [ "${#missing[@]}" -eq 0 ] && return 0
    echo "installing ${missing[*]}" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" > /dev/null
}

# need_crate NAME VERSION: installs a program from crates.io.
need_crate() {
    [ -x "$TOOLS/bin/$1" ] || cargo install --quiet --locked --root "$TOOLS" "$1" --version "$2"
}

# trial SCRIPT [ARGUMENTS]: runs support/SCRIPT where its mounts, processes and sockets end with it:
# in mount, process and network namespaces of its own.
trial() {
    [ "$(id -u)" = 0 ] || { echo "SKIPPED: needs root" >&2; exit 0; }
    [ -e /dev/fuse ] || { echo "SKIPPED: there is no /dev/fuse" >&2; exit 0; }
    need bindfs:bindfs fusermount3:fuse3
    [[ " $* " != *gluster* ]] || need glusterd:glusterfs-server
    # The floor, unless a build of it is named.
    if [ -z "${MEMFS:-}" ] && [[ " $* " == *memfs* || " $* " != *" --on "* ]]; then
        cargo build --release -p cairnfs-fuse --example memfs
        MEMFS="$(cd "${CARGO_TARGET_DIR:-target}/release/examples" && pwd)/memfs"
    fi
    export MEMFS="${MEMFS:-}"
    # The shell stays as the first process there: it takes in what the daemons leave.
    # shellcheck disable=SC2016
    unshare -mnp --propagation private --fork --kill-child --mount-proc bash -c \
        'ip link set lo up; PYTHONDONTWRITEBYTECODE=1 python3 -u "$@"; exit $?' _ "$support/$1" "${@:2}"
}
