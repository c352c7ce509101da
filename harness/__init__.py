"""Which fine-tuning strategy wins on each task, by how much, how sure are we, and what does it cost?"""

__version__ = "0.1.0"
