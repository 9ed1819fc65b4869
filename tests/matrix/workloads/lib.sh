# What the snippets of the matrix share. A program that counts writes 1, 2, 3, … into /out, one number a line.
lines() { [ -e "${2:-/out}" ] && [ "$(wc -l <"${2:-/out}")" -ge "$1" ]; }
soon() { n=0; until "$@"; do n=$((n + 1)); [ $n -lt 200 ] || { echo "not in time: $*" >&2; return 1; }; sleep 0.1; done; }
unbroken() { awk '$1 != NR { print "line " NR " is " $0 > "/dev/stderr"; exit 1 }' "${1:-/out}"; }
# It counts on, and no number is missing or there twice.
counts() { soon lines $(($(wc -l <"${1:-/out}") + 3)) "${1:-/out}" && unbroken "${1:-/out}"; }
same() { [ "$1" = "$2" ] || { echo "'$1' instead of '$2'" >&2; return 1; }; }
# The children of the first process, in one order.
children() { tr ' ' '\n' </proc/1/task/1/children | sort | xargs; }
# Write down the host's names, as container engines do, where nobody has.
name_host() { getent hosts "$(hostname)" >/dev/null || echo "127.0.0.1 localhost $(hostname)" >>/etc/hosts; }
# Run a program that changes its user by itself, or with -u one as that user. ALL_ROOT: the machine cannot dump processes of other users.
with_users() {
    told=
    if [ "$1" = -u ]; then told=$2; shift 2; fi
    if [ -n "$ALL_ROOT" ]; then
        [ -e /users.so ] || gcc -shared -fPIC -o /users.so /workloads/users.c
        env ${told:+TOLD_UID=$(id -u "$told")} LD_PRELOAD=/users.so "$@"
    elif [ -n "$told" ]; then
        setpriv --reuid "$told" --regid "$told" --clear-groups "$@"
    else
        "$@"
    fi
}
