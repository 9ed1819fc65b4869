"""Databases, queues and web servers: each is asked by its own client, and for something that a new process would not know."""

from __future__ import annotations

from typing import Final

from matrix.program import Program

_HTTP: Final = "curl -sf --max-time 5 http://127.0.0.1:8080"
_SAME_PROCESS: Final = 'same "$(ls /proc/1/task)" "$(cat /tasks)"'
"""A server that keeps nothing by itself is the same process if its threads are the same, and started when it did."""
_REMEMBER: Final = "ls /proc/1/task >/tasks"

SERVERS: Final = (
    Program(
        "redis",
        "Redis",
        apt=("redis-server",),
        version="redis-server --version | cut -d' ' -f3",
        command="exec redis-server --save '' --appendonly no",
        ready="redis-cli ping",
        build="redis-cli incr n; redis-cli rpush list a b c; redis-cli set soon x ex 3600; redis-cli info server | grep run_id >/id",
        check='same "$(redis-cli info server | grep run_id)" "$(cat /id)" && same "$(redis-cli llen list)" 3 && same "$(redis-cli get n)" 1 '
        "&& [ $(redis-cli ttl soon) -gt 3000 ]",
    ),
    Program(
        "valkey",
        "Valkey",
        apt=("valkey-server", "valkey-tools"),
        version="valkey-server --version | cut -d' ' -f3",
        command="exec valkey-server --save '' --appendonly no --io-threads 2",
        ready="valkey-cli ping",
        build="valkey-cli incr n; valkey-cli rpush list a b c; valkey-cli info server | grep run_id >/id",
        check='same "$(valkey-cli info server | grep run_id)" "$(cat /id)" && same "$(valkey-cli llen list)" 3',
    ),
    Program(
        "memcached",
        "Memcached",
        apt=("memcached", "netcat-openbsd"),
        version="memcached -V | cut -d' ' -f2",
        command="exec memcached -u root",
        ready="printf 'version\\r\\nquit\\r\\n' | nc -q 1 127.0.0.1 11211 | grep VERSION",
        build="printf 'set a 0 0 3\\r\\nabc\\r\\nquit\\r\\n' | nc 127.0.0.1 11211",
        check="printf 'get a\\r\\nquit\\r\\n' | nc 127.0.0.1 11211 | grep abc",
    ),
    Program(
        "postgresql",
        "PostgreSQL",
        apt=("postgresql", "postgresql-contrib", "gcc", "libc6-dev"),
        version="/usr/lib/postgresql/*/bin/postgres --version | cut -d' ' -f3",
        command="install -d -o postgres /data && with_users -u postgres /usr/lib/postgresql/*/bin/initdb -D /data -U postgres >/dev/null"
        " && with_users -u postgres /usr/lib/postgresql/*/bin/postgres -D /data -k /tmp",
        ready="psql -h /tmp -U postgres -c 'select 1'",
        build="psql -h /tmp -U postgres -c 'create table t (n int)' -c 'insert into t select generate_series(1, 100000)'; "
        "psql -h /tmp -U postgres -Atc 'select pg_postmaster_start_time()' >/started",
        check='same "$(psql -h /tmp -U postgres -Atc "select pg_postmaster_start_time()")" "$(cat /started)" && '
        'same "$(psql -h /tmp -U postgres -Atc "select sum(n) from t")" 5000050000 && psql -h /tmp -U postgres -c "insert into t values (0)"',
    ),
    Program(
        "mariadb",
        "MariaDB",
        apt=("mariadb-server",),
        version="mariadbd --version | grep -o '[0-9.]*-MariaDB'",
        command="mkdir -p /run/mysqld; mariadb-install-db --user=root --datadir=/data >/dev/null; exec mariadbd --user=root --datadir=/data --socket=/run/db.sock",
        ready="mariadb -S /run/db.sock -e 'select 1'",
        build="mariadb -S /run/db.sock -e 'create database d; create table d.t (n int primary key auto_increment) engine=innodb; insert into d.t values (),(),();"
        "set global max_connections=77'",
        check="same \"$(mariadb -S /run/db.sock -Ne 'select count(*) from d.t; select @@max_connections' | tr '\\n' ' ')\" '3 77 ' && "
        "mariadb -S /run/db.sock -e 'check table d.t' | grep OK",
    ),
    Program(
        "etcd",
        "etcd",
        apt=("etcd-server", "etcd-client"),
        version="etcd --version | head -1 | cut -d' ' -f3",
        command="exec etcd --data-dir /data",
        ready="etcdctl endpoint health",
        build="etcdctl put a one; etcdctl lease grant 3600 >/lease; etcdctl put b two --lease=$(cut -d' ' -f2 /lease)",
        check="etcdctl get a | grep -E 'one|three' && etcdctl put a three && etcdctl lease timetolive $(cut -d' ' -f2 /lease) | grep remaining",
    ),
    Program(
        "nats-server",
        "NATS server, with JetStream",
        apt=("nats-server", "curl", "netcat-openbsd"),
        version="nats-server --version | cut -d' ' -f2",
        command="exec nats-server --jetstream --store_dir /data -m 8222",
        ready="curl -sf http://127.0.0.1:8222/healthz",
        build='printf \'CONNECT {"verbose":false}\\r\\nSUB in 1\\r\\nPUB $JS.API.STREAM.CREATE.S in 31\\r\\n'
        '{"name":"S","subjects":["s.*"]}\\r\\nPUB s.a 3\\r\\nabc\\r\\n\' | nc -q 2 127.0.0.1 4222; '
        "curl -sf http://127.0.0.1:8222/varz | grep '\"start\"' >/started",
        check='same "$(curl -sf http://127.0.0.1:8222/varz | grep \'"start"\')" "$(cat /started)" && '
        "curl -sf http://127.0.0.1:8222/jsz | grep '\"messages\": 1'",
    ),
    Program(
        "rabbitmq",
        "RabbitMQ",
        apt=("rabbitmq-server", "gcc", "libc6-dev"),
        version="rabbitmqctl version | tail -1",
        command="export HOME=/var/lib/rabbitmq RABBITMQ_NODENAME=r@localhost; with_users /usr/lib/rabbitmq/bin/rabbitmq-server",
        ready="HOME=/var/lib/rabbitmq /usr/lib/rabbitmq/bin/rabbitmqctl -n r@localhost -q status",
        build="HOME=/var/lib/rabbitmq /usr/lib/rabbitmq/bin/rabbitmqctl -n r@localhost add_user u p; HOME=/var/lib/rabbitmq /usr/lib/rabbitmq/bin/rabbitmqctl -n r@localhost -q eval 'erlang:system_info(start_time).' >/started",
        check='same "$(HOME=/var/lib/rabbitmq /usr/lib/rabbitmq/bin/rabbitmqctl -n r@localhost -q eval "erlang:system_info(start_time).")" "$(cat /started)" && '
        "HOME=/var/lib/rabbitmq /usr/lib/rabbitmq/bin/rabbitmqctl -n r@localhost -q list_users | grep '^u'",
    ),
    Program(
        "prometheus",
        "Prometheus, scraping itself",
        apt=("prometheus", "curl"),
        version="prometheus --version 2>&1 | head -1 | cut -d' ' -f3",
        command="printf 'global: {scrape_interval: 1s}\\nscrape_configs: [{job_name: self, static_configs: [{targets: [\"127.0.0.1:9090\"]}]}]\\n' >/p.yml;"
        "exec prometheus --config.file=/p.yml --storage.tsdb.path=/data --web.listen-address=127.0.0.1:9090",
        ready="curl -sf http://127.0.0.1:9090/-/ready && curl -sf 'http://127.0.0.1:9090/api/v1/query?query=up' | grep '\"1\"'",
        build="curl -sf http://127.0.0.1:9090/api/v1/status/runtimeinfo | grep -o 'startTime[^,]*' >/started; sleep 3",
        check="soon sh -c \"curl -sf 'http://127.0.0.1:9090/api/v1/query?query=up' | grep -q '\\\"1\\\"'\" && "
        'same "$(curl -sf http://127.0.0.1:9090/api/v1/status/runtimeinfo | grep -o startTime[^,]*)" "$(cat /started)"',
    ),
    Program(
        "influxdb",
        "InfluxDB",
        apt=("influxdb", "influxdb-client"),
        version="influxd version | cut -d' ' -f2",
        command="mkdir -p /root/.influxdb; exec influxd",
        ready="influx -execute 'show databases'",
        build="influx -execute 'create database d'; for i in 1 2 3; do influx -database d -execute \"insert m,k=a v=$i\"; done",
        check='[ "$(influx -database d -execute "select sum(v) from m" -format csv | tail -1 | cut -d, -f3)" -ge 6 ] && influx -database d -execute "insert m,k=a v=1"',
    ),
    Program(
        "nginx",
        "nginx, two workers",
        apt=("nginx-light", "curl"),
        version="nginx -v 2>&1 | cut -d/ -f2",
        command="printf 'user root; daemon off; worker_processes 2; events {} http { server { listen 8080; location / { return 200 \"$pid\\\\n\"; } } }' >/n.conf;"
        "exec nginx -c /n.conf",
        ready=f"{_HTTP}/",
        build=f"children >/children; {_HTTP}/",
        check='same "$(children)" "$(cat /children)" && grep -qw "$(curl -sf http://127.0.0.1:8080/)" /children && kill -HUP 1 && sleep 1 && '
        f"{_HTTP}/ && children >/children",
    ),
    Program(
        "apache2",
        "Apache httpd, worker MPM",
        apt=("apache2", "curl", "gcc", "libc6-dev"),
        version="apache2 -v | head -1 | grep -o '[0-9.]*[0-9]'",
        command="printf 'Listen 8080\\nServerName m\\n' >/etc/apache2/ports.conf; . /etc/apache2/envvars; mkdir -p /run/apache2 /run/lock; with_users apache2 -D FOREGROUND",
        ready=f"{_HTTP}/ -o /dev/null",
        build="children >/children",
        check=f'same "$(children)" "$(cat /children)" && {_HTTP}/ -o /dev/null',
    ),
    Program(
        "haproxy",
        "HAProxy, before a server",
        apt=("haproxy", "curl", "python3"),
        version="haproxy -v | head -1 | cut -d' ' -f3",
        command="printf 'global\\n stats socket /run/h.sock level admin\\ndefaults\\n mode http\\n timeout client 5s\\n timeout server 5s\\n timeout connect 5s\\n"
        "frontend f\\n bind :8080\\n default_backend b\\nbackend b\\n server s 127.0.0.1:8000 check\\n' >/h.cfg; python3 -m http.server 8000 >/dev/null 2>&1 & exec haproxy -f /h.cfg",
        ready=f"{_HTTP}/ -o /dev/null",
        build=f"for i in 1 2 3 4 5; do {_HTTP}/ -o /dev/null; done; {_REMEMBER}",
        check=f"soon {_HTTP}/ -o /dev/null && {_SAME_PROCESS}",
    ),
    Program(
        "squid",
        "Squid",
        apt=("squid", "curl", "python3", "gcc", "libc6-dev"),
        version="squid --version | head -1 | grep -o '[0-9.]*[0-9]'",
        command="python3 -m http.server 8000 --directory /usr/share >/dev/null 2>&1 & "
        "printf 'http_port 3128\\nhttp_access allow all\\ncache_mem 8 MB\\npid_filename none\\ncache_effective_user root\\nshutdown_lifetime 1 seconds\\n' >/s.conf; chmod 777 /dev/shm; with_users -u proxy squid -N -f /s.conf",
        ready="curl -sf -x http://127.0.0.1:3128 http://127.0.0.1:8000/ -o /dev/null",
        build=_REMEMBER,
        check=f"curl -sf -x http://127.0.0.1:3128 http://127.0.0.1:8000/ -o /dev/null && {_SAME_PROCESS}",
    ),
    Program(
        "caddy",
        "Caddy",
        apt=("caddy", "curl"),
        version="caddy version",
        command="printf ':8080 {\\n file_server browse {\\n root /usr/share\\n }\\n}\\n' >/Caddyfile; exec caddy run --config /Caddyfile",
        ready=f"{_HTTP}/ -o /dev/null",
        build="curl -sf -X POST -H 'Content-Type: application/json' -d '\"30s\"' http://127.0.0.1:2019/config/apps/http/servers/srv0/idle_timeout",
        check=f"{_HTTP}/ -o /dev/null && curl -sf http://127.0.0.1:2019/config/apps/http/servers/srv0/idle_timeout | grep 30",
    ),
    Program(
        "zookeeper",
        "ZooKeeper",
        apt=("zookeeper", "netcat-openbsd"),
        version="ls /usr/share/java/zookeeper-[0-9]*.jar | grep -o '[0-9.]*[0-9]'",
        command="mkdir -p /data; printf 'tickTime=2000\\ndataDir=/data\\nclientPort=2181\\nadmin.enableServer=false\\n4lw.commands.whitelist=*\\n' >/z.cfg; "
        "exec java -cp '/etc/zookeeper/conf:/usr/share/java/*' org.apache.zookeeper.server.quorum.QuorumPeerMain /z.cfg",
        ready="echo ruok | nc -q 1 127.0.0.1 2181 | grep imok",
        build="printf 'create /a one\\nquit\\n' | /usr/share/zookeeper/bin/zkCli.sh -server 127.0.0.1:2181",
        check="printf 'get /a\\nquit\\n' | /usr/share/zookeeper/bin/zkCli.sh -server 127.0.0.1:2181 2>&1 | grep '^one'",
    ),
)
