"""The one fine-tuning loop and what it needs. Knows nothing of where it runs."""
