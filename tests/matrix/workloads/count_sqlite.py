"""Three writers to one SQLite database in WAL mode, which is mapped and locked by all of them."""

import os
import sqlite3
import time

database = sqlite3.connect("/data.db")
database.executescript("pragma journal_mode=wal; create table t (n integer primary key);")
database.close()
for _ in range(2):
    if os.fork() == 0:
        break
database = sqlite3.connect("/data.db", timeout=30, isolation_level=None)
database.execute("pragma mmap_size=10000000")
while True:
    database.execute("begin immediate")
    (number,) = database.execute("insert into t select coalesce(max(n), 0) + 1 from t returning n").fetchone()
    with open("/out", "a") as out:
        print(number, file=out)
    database.execute("commit")
    time.sleep(0.05)
