"""Asyncio client for fine-tuning Stable Diffusion LoRA models on the Crynux Network."""

__version__ = "0.1.0"
