"""How a database gets to the schema of ``controlplane.log``, one numbered revision after the other.

The wheel has this folder within ``controlplane``, where ``controlplane.log.admin.migrate`` finds it wherever the package is installed. A revision is
frozen once released: it spells out its own tables, views and triggers and imports nothing of ours. A view's SQL is in
the newest revision that made it.
"""
