"""A seeded simulation of the whole decision core: see :mod:`.world` for what is real in it and what is not."""
