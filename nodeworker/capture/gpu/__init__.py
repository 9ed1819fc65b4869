"""GPUs: NVIDIA's driver, its checkpoint calls and device nodes."""
