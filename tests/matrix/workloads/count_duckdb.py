"""A DuckDB database, one in memory and one in a file, that grows by a row a step."""

import time

import duckdb

memory, file = duckdb.connect(), duckdb.connect("/data.duckdb")
for each in (memory, file):
    each.execute("create table t (n integer)")
number = 0
with open("/out", "a", buffering=1) as out:
    while True:
        number += 1
        for each in (memory, file):
            each.execute("insert into t values (?)", [number])
        (found,) = memory.execute("select count(*) from t").fetchone()
        assert file.execute("select max(n) from t").fetchone() == (found,)
        print(found, file=out)
        time.sleep(0.1)
