"""How a database gets to the schema of ``controlplane.log``, one numbered revision after the other.

The folder ships in the wheel, so that ``controlplane.log.migrate`` works wherever the package is installed. A revision is
frozen once released: it spells out its own tables, views and triggers and imports nothing of ours. A view's SQL is in
the newest revision that made it.
"""
