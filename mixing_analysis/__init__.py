"""Reading what the mixing values of trained networks became."""

EXPECTED = "a run folder, a checkpoint (.ckpt, .pt, .safetensors), a W&B offline folder or wandb:ENTITY/PROJECT/RUN"
"""What can be read."""
