"""Jobs of Kubernetes whose pods are protected: what a preemption would cost them, and how it does not (docs/explanation/jobs.md)."""
