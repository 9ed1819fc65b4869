"""What an administrator does with a log's database: migrate its schema, set roles, transfer it to another engine."""
