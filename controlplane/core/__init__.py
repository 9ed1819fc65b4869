"""The input loop and what it needs: the queue before it, the state that it keeps, and who waits for it. No NATS, no SQL dialect."""
