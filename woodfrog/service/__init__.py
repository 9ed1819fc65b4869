"""What every process of Woodfrog needs to live: its log, its signals, its way to NATS, and its named fault points.

Both sides use it and it knows neither. Whatever is about checkpoints belongs elsewhere.
"""
