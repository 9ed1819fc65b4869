"""SQL: the engines and their differences, connections, prepared statements, rows."""
