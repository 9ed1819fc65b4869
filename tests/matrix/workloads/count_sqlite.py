"""Three writers to one SQLite database; argument: the journal's mode. In WAL mode all of them map one file and lock it."""

import os
import sqlite3
import sys
import time

database = sqlite3.connect("/data.db")
database.executescript(f"pragma journal_mode={sys.argv[1]}; create table t (n integer primary key);")
database.close()
for _ in range(2):
    if os.fork() == 0:
        break
database = sqlite3.connect("/data.db", timeout=30, isolation_level=None)
while True:
    database.execute("begin immediate")
    (number,) = database.execute("insert into t select coalesce(max(n), 0) + 1 from t returning n").fetchone()
    with open("/out", "a") as out:
        print(number, file=out)
    database.execute("commit")
    time.sleep(0.05)
