"""The tables behind the views: folded from events, rebuilt, verified, described."""
