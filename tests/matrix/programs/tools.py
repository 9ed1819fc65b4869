"""Shells, daemons of a system, desktop programs and tools that work through a lot of files."""

from __future__ import annotations

from typing import Final

from matrix.program import BOOKWORM, Program

_COUNT: Final = "i=0; while :; do i=$((i+1)); echo $i >>/out; sleep 0.05; done"

TOOLS: Final = (
    Program(
        "bash-pipeline",
        "bash: a pipeline of three",
        version="bash --version | head -1 | cut -d' ' -f4",
        command="exec bash -c 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done | tee /copy | while read n; do echo $n; done >>/out'",
        check="counts && counts /copy",
        on_any_machine=True,
    ),
    Program(
        "perl",
        "Perl",
        version="perl -e 'print $^V'",
        command='exec perl -e \'$| = 1; open(F, ">>", "/out"); F->autoflush(1); while (1) { print F ++$n, "\\n"; select(undef, undef, undef, 0.05) }\'',
        check="counts",
        on_any_machine=True,
    ),
    Program(
        "tail",
        "tail -F of a file that is renamed and made again",
        suite=BOOKWORM,
        version="tail --version | head -1 | grep -o '[0-9.]*$'",
        command="{ i=0; while :; do i=$((i+1)); [ $((i % 100)) -ne 0 ] || mv /log /log.1; echo $i >>/log; sleep 0.05; done; } & sleep 1; "
        # On overlay tail asks every so often in place of watching, and by default looks for a new file after five times without change:
        # as seldom as this one is renamed, so that it would miss a whole file now and then, in no container and without a snapshot as well.
        "exec tail --max-unchanged-stats=1 --sleep-interval=0.2 -n +1 -F /log 2>/dev/null >>/out",
        check="counts",
    ),
    Program(
        "tmux",
        "tmux with a shell in a window",
        apt=("tmux",),
        version="tmux -V | cut -d' ' -f2",
        command=f"export LC_ALL=C.UTF-8; tmux new-session -d -s work '{_COUNT}'; exec sleep 1000000",
        build="LC_ALL=C.UTF-8 tmux new-window -t work 'bash --norc'; LC_ALL=C.UTF-8 tmux send-keys -t work:1 'kept=abc' Enter; sleep 1",
        check="counts && LC_ALL=C.UTF-8 tmux send-keys -t work:1 'echo $kept >/kept' Enter && soon [ -s /kept ] && same $(cat /kept) abc && rm /kept",
    ),
    Program(
        "sshd",
        "OpenSSH server with a session of its own client",
        apt=("openssh-server", "openssh-client"),
        version="ssh -V 2>&1 | cut -d, -f1 | cut -d_ -f2",
        command="mkdir -p /run/sshd /root/.ssh; ssh-keygen -A >/dev/null; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519; "
        "cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys; /usr/sbin/sshd -p 2222 -o ListenAddress=127.0.0.1; sleep 1; "
        f"exec ssh -o StrictHostKeyChecking=no -p 2222 127.0.0.1 '{_COUNT.replace('>>/out', '')}' >>/out",
        check="counts && ssh -o StrictHostKeyChecking=no -p 2222 127.0.0.1 true",
    ),
    Program(
        "cron",
        "cron, a job each minute",
        apt=("cron",),
        version="dpkg-query -W -f '${Version}\\n' cron",
        command="printf '* * * * * echo ran >>/ran\\n' | crontab -; exec cron -f",
        ready="pidof cron",
        check="rm -f /ran; n=0; until [ -s /ran ]; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 1; done",
    ),
    Program(
        "gcc",
        "make -j2 with gcc over 300 files",
        apt=("gcc", "make", "libc6-dev"),
        version="gcc --version | head -1 | grep -o '[0-9.]*$'",
        command='mkdir -p /src; cd /src; for i in $(seq 300); do echo "int f$i(int n) { return n + $i; }" >f$i.c; done; '
        "{ for i in $(seq 300); do echo \"int f$i(int);\"; done; echo '#include <stdio.h>'; echo 'int main(void) { long n = 0;'; "
        'for i in $(seq 300); do echo "n += f$i(1);"; done; echo \'printf("%ld", n); }\'; } >main.c; '
        "printf 'p: $(patsubst %%.c,%%.o,$(wildcard *.c))\\n\\tgcc -o $@ $^\\n%%.o: %%.c\\n\\tgcc -O2 -c $< && echo $@ >>/done\\n' >Makefile; "
        "make -s -j2 p && ./p >/result.new && mv /result.new /result; exec sleep 1000000",
        ready="lines 5 /done",
        check="true",
        result="/result",
    ),
    Program(
        "git-gc",
        "git: commits and repack in a loop",
        apt=("git",),
        version="git --version | cut -d' ' -f3",
        command="git init -q /repo && cd /repo && git config user.email a@b && git config user.name a && "
        "i=0; while :; do i=$((i+1)); seq $i >f; git add f && git commit -qm $i && git gc -q --prune=now && echo $i >>/out || exit 1; done",
        check="counts && cd /repo && git fsck --full",
    ),
    Program(
        "rsync",
        "rsync of many files, by a pipe",
        apt=("rsync",),
        version="rsync --version | head -1 | grep -o '[0-9.]*' | head -1",
        command="i=0; while :; do i=$((i+1)); rm -rf /to; rsync -a /usr/lib/python3.13/ /to/ && diff -rq /usr/lib/python3.13 /to && echo $i >>/out || exit 1; done",
        ready="lines 1",
        check="counts",
    ),
    Program(
        "ffmpeg",
        "ffmpeg, encoding with x264",
        apt=("ffmpeg",),
        version="ffmpeg -version | head -1 | cut -d' ' -f3",
        command="ffmpeg -nostdin -loglevel error -re -f lavfi -i testsrc=duration=40:size=320x240:rate=10 -threads 1 -c:v libx264 -preset ultrafast -bitexact -f h264 /v.new "
        "</dev/null && mv /v.new /result; exec sleep 1000000",
        ready="[ $(stat -c %s /v.new) -gt 0 ]",
        check="true",
        result="/result",
    ),
    Program(
        "xvfb",
        "Xvfb with a clock",
        apt=("xvfb", "x11-apps", "x11-utils"),
        version="dpkg-query -W -f '${Version}\\n' xvfb",
        command="mkdir -p /tmp/.X11-unix; Xvfb :1 -screen 0 320x240x24 -nolisten tcp & sleep 2; exec env DISPLAY=:1 xclock -digital -update 1",
        ready="DISPLAY=:1 xwininfo -name xclock",
        build="DISPLAY=:1 xwininfo -name xclock | grep 'Window id' >/window",
        check='same "$(DISPLAY=:1 xwininfo -name xclock | grep "Window id")" "$(cat /window)" && kill -0 1',
    ),
    Program(
        "chromium",
        "Chromium, headless, a page that counts",
        apt=("chromium", "curl"),
        version="chromium --version 2>/dev/null | cut -d' ' -f2",
        command="printf '<title>0</title><script>n = 0; setInterval(() => document.title = ++n, 100)</script>' >/p.html; "
        "exec chromium --headless --no-sandbox --disable-gpu --remote-debugging-port=9222 --user-data-dir=/data file:///p.html",
        ready="curl -sf http://127.0.0.1:9222/json | grep title",
        build="sleep 2; curl -sf http://127.0.0.1:9222/json | grep -o '\"title\": \"[0-9]*' | grep -o '[0-9]*$' >/before",
        check='soon sh -c \'[ $(curl -sf http://127.0.0.1:9222/json | grep -o "\\"title\\": \\"[0-9]*" | grep -o "[0-9]*$") -gt $(cat /before) ]\'',
    ),
)
