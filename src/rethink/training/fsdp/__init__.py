"""Training in several processes: FSDP2 engine, model and checkpoints."""
