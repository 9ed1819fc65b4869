"""The control plane's side of NATS: reports and questions in, commands and the audit stream out.

NATS is transport. Nothing here decides anything or is remembered only here: what comes in is handed to the one input loop
(:mod:`controlplane.core.loop`), what goes out is read from the log, and a stream that was wiped is recreated.
"""
