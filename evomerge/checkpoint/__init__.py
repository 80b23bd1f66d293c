"""Checkpoints on disk: safetensors headers, folders, adapters; read by pread, written by rename."""
