"""A seeded run that kills, fills and loses what can be killed, filled and lost, and accounts for every id at the end (`make chaos`)."""
